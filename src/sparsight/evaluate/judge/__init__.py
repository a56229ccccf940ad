"""A judge: a language model behind an OpenAI-compatible endpoint that marks answers.

`wordings` has what it is asked, `verdicts` reads its replies, `client` talks to it, and `judging`
asks it about all answers of an evaluation.
"""
