"""What a language model is asked, and what it answers: tokens in, numbers and text out."""

from typing import Literal, NamedTuple

Tokens = tuple[int, ...]


class Continuation(NamedTuple):
    """How likely is `continuation` after `context`? Both have at least one token."""

    context: Tokens
    continuation: Tokens


class Likelihood(NamedTuple):
    """The log-likelihood in nats, summed over the continuation, and whether greedy decoding would have given it."""

    loglikelihood: float
    greedy: bool


class Sampling(NamedTuple):
    """How the next token is drawn. `seed` belongs to one prompt: a draw depends on nothing else that is generated."""

    seed: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


class Prompt(NamedTuple):
    """Text is wanted after these tokens: until one of the strings `until`, the end token, or `max_tokens`.

    Greedy where `sampling` is None. `repetition_penalty` above 1 makes tokens that are there already less likely (CTRL,
    arXiv 1909.05858, section 4.1).
    """

    tokens: Tokens
    until: tuple[str, ...]
    max_tokens: int
    sampling: Sampling | None = None
    repetition_penalty: float = 1.0


class Generated(NamedTuple):
    """An answer: its tokens, its text up to the first stop string, and what ended it.

    `finite` is False where some step's logits were not finite: the weights are broken and the text means nothing.
    """

    tokens: Tokens
    text: str
    ended: Literal["stop", "end", "length"]
    finite: bool = True
