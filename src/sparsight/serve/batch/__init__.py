"""Answers many questions about many images: `sparsight run`, on one machine or a Ray cluster."""
