"""Write many texts at once: a text that is finished leaves, and the next prompt takes its slot."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from evaluators.lm.batches import gather
from evaluators.lm.decoding import choose
from evaluators.lm.forest import plant
from evaluators.lm.forward import Forward
from evaluators.lm.requests import Generated, Prompt
from evaluators.lm.slots import Slots
from evaluators.lm.stops import Stops
from evaluators.meter import Meter

_REFILL = 8  # prompts are read again as soon as this share of the slots is free


@dataclass
class _Text:
    """A text being written. `members` are the requests it answers: the same prompt asked twice is written once."""

    prompt: Prompt
    members: list[int]
    tokens: list[int] = field(default_factory=list)
    finite: bool = True

    @property
    def length(self) -> int:
        """Tokens in its slot: the prompt, and what was written except for the last token."""
        return len(self.prompt.tokens) + len(self.tokens) - 1


class Writer:
    """Writes the answers to some prompts on one model.

    `end` are the tokens that end a text. A prompt that does not fit the window (`room` tokens) together with what may
    be written loses its beginning, as in lm-eval. At most `slots` texts are written at a time; `budget` bounds the
    tokens of a prefill.
    """

    def __init__(
        self,
        forward: Forward,
        tokenizer: Any,
        end: Sequence[int],
        room: int,
        slots: int,
        budget: int,
    ) -> None:
        self._forward = forward
        self._tokenizer = tokenizer
        self._end = frozenset(end)
        self._room, self._most, self._budget = room, slots, budget
        self._stops: dict[tuple[str, ...], Stops] = {}
        self._active: list[_Text] = []
        self._waiting: deque[_Text] = deque()

    def write(self, prompts: Sequence[Prompt], meter: Meter, done: Callable[[int], None]) -> list[Generated]:
        """One answer per prompt, in their order. `done` hears how many prompts each finished text answers."""
        self._active, self._waiting = [], deque(self._texts(prompts))
        if not self._waiting:
            return []
        longest = max(len(text.prompt.tokens) + text.prompt.max_tokens for text in self._waiting)
        count = min(self._most, len(self._waiting))
        slots = Slots(count, longest)
        answers: dict[int, Generated] = {}

        def finish(text: _Text, ended: Literal["stop", "end", "length"]) -> None:
            whole = self._tokenizer.decode(text.tokens, skip_special_tokens=True)
            answer = Generated(tuple(text.tokens), self._stops_of(text).cut(whole), ended, text.finite)
            answers.update(dict.fromkeys(text.members, answer))
            done(len(text.members))

        while self._active or self._waiting:
            free = count - len(self._active)
            if self._waiting and (not self._active or free >= max(1, count // _REFILL)):
                self._admit(slots, free, meter, finish)
            if self._active:
                self._step(slots, meter, finish)
        return [answers[index] for index in range(len(prompts))]

    def _texts(self, prompts: Sequence[Prompt]) -> list[_Text]:
        """What has to be written, neighbours with the same beginning together."""
        texts: dict[Prompt, _Text] = {}
        for index, prompt in enumerate(prompts):
            cut = prompt._replace(tokens=prompt.tokens[-(self._room - prompt.max_tokens) :])
            texts.setdefault(cut, _Text(cut, [])).members.append(index)
        return sorted(texts.values(), key=lambda text: text.prompt.tokens)

    def _admit(self, slots: Slots, free: int, meter: Meter, finish: Callable[..., None]) -> None:
        """Read as many waiting prompts as there are slots; those not finished by their first token move in."""
        fresh = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        crossover = self._forward.crossover()
        rows = plant([text.prompt.tokens for text in fresh], crossover, self._budget)
        for batch in gather(rows, self._budget):
            here = batch.to(self._forward.device)
            members = [
                (number, member, path) for number, row in enumerate(here.rows) for member, path in row.paths.items()
            ]
            ends = torch.tensor([number * here.length + path[-1] for number, _, path in members])
            logits = self._forward.prefill(here, ends.to(self._forward.device), slots, meter)
            texts = [fresh[member] for _, member, _ in members]
            staying = self._append(texts, logits, finish)
            if not staying:
                continue
            first = len(self._active)
            width = max(len(members[place][2]) for place in staying)
            paths = torch.tensor([_stretched(members[place][2], width) for place in staying])
            numbers = torch.tensor([members[place][0] for place in staying])
            taken = torch.arange(first, first + len(staying))
            device = self._forward.device
            slots.admit(taken.to(device), numbers.to(device), paths.to(device))
            self._active += [texts[place] for place in staying]

    def _step(self, slots: Slots, meter: Meter, finish: Callable[..., None]) -> None:
        """One token more for every active text; the slots of finished ones are filled from the end."""
        device = self._forward.device
        lengths = [text.length for text in self._active]
        tokens = torch.tensor([text.tokens[-1] for text in self._active], device=device)
        width = max(lengths) + 1
        logits = self._forward.step(tokens, torch.tensor(lengths, device=device), width, slots, meter)
        staying = self._append(self._active, logits, finish)
        if len(staying) == len(self._active):
            return
        kept, still = len(staying), set(staying)
        holes = [slot for slot in range(kept) if slot not in still]
        movers = [slot for slot in staying if slot >= kept]
        if movers:
            slots.move(torch.tensor(movers, device=device), torch.tensor(holes, device=device), width)
        order = list(range(kept))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self._active = [self._active[slot] for slot in order]

    def _append(self, texts: Sequence[_Text], logits: Tensor, finish: Callable[..., None]) -> list[int]:
        """Give every text its next token; the places of those that go on."""
        finite = torch.isfinite(logits.amax(dim=-1)).tolist()  # amax keeps NaN; a masked -inf is no harm
        chosen = choose(logits, [text.prompt for text in texts], [text.tokens for text in texts]).tolist()
        staying = []
        for place, (text, token) in enumerate(zip(texts, chosen, strict=True)):
            text.tokens.append(token)
            text.finite &= finite[place]
            if token in self._end:
                finish(text, "end")
            elif self._stops_of(text).reached(text.tokens):
                finish(text, "stop")
            elif len(text.tokens) >= text.prompt.max_tokens:
                finish(text, "length")
            else:
                staying.append(place)
        return staying

    def _stops_of(self, text: _Text) -> Stops:
        until = text.prompt.until
        if until not in self._stops:
            self._stops[until] = Stops(self._tokenizer, until)
        return self._stops[until]


def _stretched(path: list[int], width: int) -> list[int]:
    """The path with its last place repeated: what stands beyond a text's length is never seen."""
    return path + path[-1:] * (width - len(path))
