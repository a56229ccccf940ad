"""`sparsight serve`: a small HTTP server that speaks OpenAI's chat completions.

A request is read and checked (`wire`, `choosing`, `pictures`), made into a prompt (`prompts`), and
waits in a line; one thread owns the model and answers requests of equal settings together
(`worker`, `batches`, `answers`). Importing this package imports nothing else: the packages of the
extra `serve` are needed only by `app` and `running`.
"""
