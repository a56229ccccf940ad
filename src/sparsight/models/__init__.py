"""Models that transformers and hubs do not give."""
