"""vLLM as a scoring engine: the same questions and answers as `evaluators.lm`, computed by a guest."""
