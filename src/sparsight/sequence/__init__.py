"""A sequence that gets shorter: prompts, raters, scores, masks, trace. Knows no module of transformers."""
