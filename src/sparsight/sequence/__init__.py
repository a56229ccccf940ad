"""A sequence that gets shorter: prompts, raters, scores, masks, trace; knows no transformers."""
