"""Serves models: an HTTP server of its own over `sparsify` and `generate()`."""
