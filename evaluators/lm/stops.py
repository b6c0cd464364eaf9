"""Notice that a text being written has reached a stop string, looking at few of its tokens."""

from collections.abc import Sequence
from typing import Any


class Stops:
    """The stop strings of some prompts, for one tokenizer.

    A stop string can only be completed by a token whose text holds its last character, so only after such a token are
    the last few tokens decoded. Tokens that are part of a character and stop strings that end in a blank, which some
    tokenizers drop at the start of a text, are always looked at.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._until = [stop for stop in until if stop]
        self._last = {stop[-1] for stop in self._until}
        self._always = any(character.isspace() and character != "\n" for character in self._last)
        self._window = 4 + 4 * max((len(stop) for stop in self._until), default=0)
        self._completing: dict[int, bool] = {}

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens completed a stop string."""
        if not self._until or not self._may_complete(tokens[-1]):
            return False
        text = self._tokenizer.decode(tokens[-self._window :], skip_special_tokens=False)
        return any(stop in text for stop in self._until)

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        for stop in self._until:
            text = text.split(stop)[0]
        return text

    def _may_complete(self, token: int) -> bool:
        if token not in self._completing:
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            self._completing[token] = self._always or "�" in text or any(one in text for one in self._last)
        return self._completing[token]
