"""What can be evaluated: a checkpoint, in transformers or vLLM, or a model behind an OpenAI-compatible server."""
