"""What a job lends to all of its evaluators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evaluators.shares import Splits

if TYPE_CHECKING:
    from torch import nn

    from evaluators.lm import LanguageModel


class Setting:
    """The splits, the tokenizer, the scoring engine around the resident model, and where the experts' folders are.

    `smooth` says that the search follows the smooth scores, so every task has to give them. `allow_code` lets files
    that a task names run Python. `experts` are the names of the job's experts, `folder_of` finds the folder of one.
    """

    def __init__(
        self,
        splits: Splits,
        open_tokenizer: Callable[[], Any],
        *,
        allow_code: bool = False,
        smooth: bool = False,
        experts: tuple[str, ...] = (),
        folder_of: Callable[[str], str] = str,
    ) -> None:
        self.splits = splits
        self.allow_code = allow_code
        self.smooth = smooth
        self.experts = experts
        self.folder_of = folder_of
        self._open_tokenizer = open_tokenizer
        self._engines: dict[int | None, tuple[nn.Module, LanguageModel]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The base's transformers tokenizer, opened when it is first wanted: not every model has one."""
        return self._open_tokenizer()

    def language_model(self, model: nn.Module, batch_tokens: int | None = None) -> LanguageModel:
        """The scoring engine around the resident model, the same one for every evaluator that asks."""
        known = self._engines.get(batch_tokens)
        if known is None or known[0] is not model:
            from evaluators.lm import window_of

            room = window_of(model, self.tokenizer)
            known = (model, scoring_engine(model, self.tokenizer, room, batch_tokens))
            self._engines[batch_tokens] = known
        return known[1]


def scoring_engine(model: nn.Module, tokenizer: Any, room: int, batch_tokens: int | None = None) -> LanguageModel:
    """The scoring engine around a model that has a window of `room` tokens.

    A model that lives in another engine brings one of its own (`scoring_engine(tokenizer, room)`) with the methods of
    `LanguageModel`; its `room` may be less, and its batches are its own business.
    """
    own: Callable[[Any, int], LanguageModel] | None = getattr(model, "scoring_engine", None)
    if own is not None:
        return own(tokenizer, room)
    from evaluators.lm import LanguageModel

    return LanguageModel(model, tokenizer, room, batch_tokens)


def plain_setting(splits: Splits, tokenizer: Any, **options: Any) -> Setting:
    """A setting around a tokenizer that is open already."""
    return Setting(splits, lambda: tokenizer, **options)
