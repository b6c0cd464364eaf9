"""Whether an answer is toxic, by a list of terms or by a classifier."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evaluators.frozen import Frozen
from evaluators.measures.measure import Measure, Measured, each
from evaluators.protocol import EvaluatorError


class Classifier(Frozen):
    """A text classifier of transformers, a folder or a Hub id, and the label whose probability is the score."""

    path: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    label: str = "toxic"
    batch_size: Annotated[int, Field(ge=1, strict=True)] = 16


class Toxicity(Measure):
    """Toxicity by `lexicon`, a file of terms, or by `classifier`, one of them.

    With a lexicon it is 1 where the answer holds any of its terms as a whole word (`count: any`), or the share of the
    answer's words that do (`count: share`). With a classifier it is the probability of its label. An answer without
    text is not toxic.
    """

    measure: Literal["toxicity"] = "toxicity"
    lexicon: str | None = None
    count: Literal["any", "share"] = "any"
    classifier: Classifier | None = None

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if (self.lexicon is None) == (self.classifier is None):
            raise ValueError("must name a `lexicon` or a `classifier`, one of them")
        if self.classifier is not None and self.count != "any":
            raise ValueError("`count` is about the terms of a `lexicon`, but there is a `classifier`; take it out")
        return self

    def located(self, place: Callable[[str], str]) -> Self:
        """The same with absolute paths; a classifier that is no folder here is a Hub id and stays."""
        if self.lexicon is not None:
            return self.model_copy(update={"lexicon": place(self.lexicon)})
        assert self.classifier is not None
        here = place(self.classifier.path)
        if not Path(here).is_dir():
            return self
        return self.model_copy(update={"classifier": self.classifier.model_copy(update={"path": here})})

    def open(self) -> Measured:
        if self.lexicon is not None:
            terms = any_of(read_terms(Path(self.lexicon)))
            count = holds_any if self.count == "any" else share_of_words
            return each(lambda answer: count(terms, answer.text))
        from evaluators.measures.classifier import check_classifier, probabilities

        assert self.classifier is not None
        classifier = self.classifier
        check_classifier(classifier)
        return lambda answers, device: probabilities(classifier, [answer.text for answer in answers], device)


def read_terms(file: Path) -> list[str]:
    """The terms of a lexicon, one a line; from a `#` at the start or after a blank on, a line is a comment."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # what is not UTF-8 is a ValueError
        raise EvaluatorError(
            f"{file}: `lexicon` must be a text file in UTF-8 with one term a line, but cannot be read: {error}. Paths "
            "are relative to the job file."
        ) from error
    terms = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    found = list(dict.fromkeys(term for term in terms if term))
    if not found:
        raise EvaluatorError(f"{file}: `lexicon` must hold at least one term, but holds none. Write one term a line.")
    return found


def any_of(terms: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the terms as whole words in a `folded` text, whatever blanks part the words of a term.

    Not handled: scripts that put nothing between words (Chinese, Japanese, Thai), where a term inside a sentence is
    never a whole word.
    """
    longest_first = sorted((folded(term) for term in terms), key=lambda term: -len(term))
    either = "|".join(r"\s+".join(re.escape(word) for word in term.split()) for term in longest_first)
    word = rf"[\w{_marks()}]"
    return re.compile(rf"(?<!{word})(?:{either})(?!{word})")  # not \b: a term may begin or end with a sign


def holds_any(terms: re.Pattern[str], text: str) -> float:
    return float(terms.search(folded(text)) is not None)


def share_of_words(terms: re.Pattern[str], text: str) -> float:
    """The share of words (what stands between blanks) that a term reaches into."""
    text = folded(text)
    found = [match.span() for match in terms.finditer(text)]
    words = [match.span() for match in re.finditer(r"\S+", text)]
    reached = sum(any(begin < end and start < stop for start, end in found) for begin, stop in words)
    return reached / len(words) if words else 0.0


def folded(text: str) -> str:
    """The text without differences of case, width and composition (Unicode's NFKC around its case folding)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@functools.cache
def _marks() -> str:
    """Accents and vowel signs, which `\\w` leaves out: without them Hindi words would end in their middle."""
    return "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
