"""A resident causal language model, asked for log-likelihoods and text at the cost of its forward passes."""

from evaluators.lm.language_model import LanguageModel
from evaluators.lm.requests import Continuation, Generated, Likelihood, Prompt, Sampling
from evaluators.lm.window import rolling, window_of

__all__ = [
    "Continuation",
    "Generated",
    "LanguageModel",
    "Likelihood",
    "Prompt",
    "Sampling",
    "rolling",
    "window_of",
]
