"""Hosts a transformers model: hooks, caches, masks and checks, and all private details touched."""
