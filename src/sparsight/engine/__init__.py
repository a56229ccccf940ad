"""Hosts a model of transformers: hooks, caches, masks, checks. Private details of transformers are touched here."""
