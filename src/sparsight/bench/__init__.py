"""Times what is predicted elsewhere."""
