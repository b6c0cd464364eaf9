"""Measures of generated answers, each a function of one answer."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from evaluators.measures import Answer, AnyMeasure, Measure
from evaluators.measures.length import length
from evaluators.measures.no_end import no_end
from evaluators.measures.repetition import repeated_share
from evaluators.measures.toxicity import any_of, holds_any, read_terms, share_of_words
from evaluators.measures.truncated import truncated
from evaluators.protocol import EvaluatorError, Task

EMPTY = Answer("", (), "end")


def _measure(said: Any) -> Measure:
    return TypeAdapter[Measure](AnyMeasure).validate_python(said)


def _task(said: Any) -> Task:
    measure = _measure(said)
    return measure.as_task("t", measure.metric, measure.higher_is_better)


def _of(said: Any, answer: Answer) -> float:
    (value,) = _measure(said).open()([answer], torch.device("cpu"))
    return value


def _holds(term: str, text: str) -> bool:
    return holds_any(any_of([term]), text) == 1.0


@pytest.mark.parametrize(("ended", "cut", "unended"), [("length", 1.0, 1.0), ("stop", 0.0, 1.0), ("end", 0.0, 0.0)])
def test_an_answer_that_met_a_stop_string_is_not_cut_but_lacks_its_end_token(
    ended: Literal["stop", "end", "length"], cut: float, unended: float
) -> None:
    assert truncated(Answer("a", (1,), ended)) == cut
    assert no_end(Answer("a", (1,), ended)) == unended


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [
        ((1, 2, 3, 1, 2, 3), 2, 1 - 3 / 5),  # 12 23 31 12 23
        ((1, 1, 1, 1, 1, 1), 4, 1 - 1 / 3),
        ((1, 2, 3, 4, 5), 4, 0.0),
        ((1, 2, 1, 2), 1, 0.5),
        ((1, 1, 1), 4, 0.0),
        ((), 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_that_stood_there_before(
    tokens: tuple[int, ...], n: int, share: float
) -> None:
    assert repeated_share(tokens, n) == pytest.approx(share)
    assert _of({"measure": "repetition", "n": n}, Answer("", tokens, "end")) == pytest.approx(share)


def test_a_threshold_makes_repetition_a_rate_of_degenerate_answers() -> None:
    half = Answer("", (1, 2, 1, 2), "end")
    assert [_of({"measure": "repetition", "n": 1, "threshold": t}, half) for t in (0.4, 0.5)] == [1.0, 0.0]
    assert _task({"measure": "repetition", "n": 1, "threshold": 0.4}).metric == "seq_rep_1_above_0.4"


def test_length_counts_tokens_words_or_characters() -> None:
    answer = Answer(" Über  den Fluß\n", (5, 6, 7, 8), "end")
    assert length(answer, "tokens") == 4
    assert length(answer, "words") == 3
    assert length(answer, "characters") == 16
    assert [length(EMPTY, unit) for unit in ("tokens", "words", "characters")] == [0, 0, 0]  # type: ignore[arg-type]


def test_length_is_aimed_by_its_direction_or_only_kept_within_a_bound() -> None:
    with pytest.raises(ValidationError, match="direction"):
        _measure("length")
    with pytest.raises(ValidationError, match="direction"):
        _measure({"measure": "length", "bound": {"at_most": 9}, "objective": "short"})
    assert _task({"measure": "length", "direction": "maximize"}).higher_is_better
    assert not _task({"measure": "length", "direction": "minimize"}).higher_is_better
    bounded = _task({"measure": "length", "unit": "words", "bound": {"at_most": 9}})
    assert (bounded.objective, bounded.metric) == (None, "length_in_words")


def test_of_every_other_measure_less_is_better() -> None:
    others = ["truncated", "no_end", "repetition", {"measure": "toxicity", "lexicon": "terms.txt"}]
    assert not any(_task(said).higher_is_better for said in others)
    assert not any(_task(said).turned for said in others)
    assert _task({"measure": "truncated", "direction": "maximize"}).higher_is_better


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("ass", "What an ASS!"),
        ("Straße", "die STRASSE runter"),
        ("дурак", "Ты Дурак."),
        ("café", "le cafe\u0301, s'il vous plaît"),
        ("bad", "ｂａｄ luck"),
        ("shut up", "oh, shut\n  up now"),
        ("f***", "f*** you"),
        ("c++", "I hate c++, truly"),
        ("a.b", "say a.b twice"),
        ("कम", "बहुत कम है"),
    ],
)
def test_a_term_is_found_as_a_whole_word_in_any_case_and_script(term: str, text: str) -> None:
    assert _holds(term, text)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("ass", "a class assembled by Cass"),
        ("дурак", "дураки"),
        ("cafe", "cafe\u0301"),
        ("a.b", "aXb"),
        ("shut up", "shutup"),
        ("कम", "कमी है"),  # the vowel sign belongs to the word
        ("ass", ""),
    ],
)
def test_a_term_is_not_found_inside_another_word(term: str, text: str) -> None:
    assert not _holds(term, text)


def test_the_share_counts_the_words_a_term_reaches_into() -> None:
    terms = any_of(["damn", "shut up", "shut"])
    assert share_of_words(terms, "Damn, shut  up you (damn) fool") == pytest.approx(4 / 6)
    assert share_of_words(terms, "nothing here") == 0
    assert share_of_words(terms, " ") == 0


def test_a_lexicon_has_one_term_a_line_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("\ufeff# of my own\nDamn  # mild\n\n  shut up\nDamn\nc#\n", encoding="utf-8")
    assert read_terms(file) == ["Damn", "shut up", "c#"]
    lexicon = {"measure": "toxicity", "lexicon": str(file)}
    assert _of(lexicon, Answer("so damn good", (), "end")) == 1
    assert _of({**lexicon, "count": "share"}, Answer("so damn good", (), "end")) == pytest.approx(1 / 3)
    assert _of(lexicon, EMPTY) == 0


@pytest.mark.parametrize("content", [b"", b"# nothing yet\n\n", b"\xff\xfe\x00 not UTF-8", None])
def test_a_lexicon_without_terms_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EvaluatorError, match="lexicon"):
        _measure({"measure": "toxicity", "lexicon": str(file)}).open()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("toxicity", "lexicon"),
        ({"measure": "toxicity", "lexicon": "a", "classifier": {"path": "b"}}, "one of them"),
        ({"measure": "toxicity", "classifier": {"path": "b"}, "count": "share"}, "count"),
        ({"measure": "toxicity", "lexicon": "a", "count": "most"}, "count"),
        ({"measure": "repetition", "n": 0}, "repetition.n"),
        ({"measure": "repetition", "n": True}, "repetition.n"),
        ({"measure": "repetition", "threshold": 1.0}, "threshold"),
        ({"measure": "length", "unit": "pages", "direction": "minimize"}, "unit"),
        ({"measure": "truncated", "n": 4}, "truncated.n"),
        ("brevity", "no_end"),
    ],
)
def test_a_mistake_in_a_measure_is_refused_by_name(said: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        _measure(said)


def test_only_a_classifier_that_is_a_folder_here_gets_an_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()

    def path(said: str) -> str:
        found = _measure({"measure": "toxicity", "classifier": {"path": said}}).located(lambda p: str(tmp_path / p))
        return str(found.model_dump()["classifier"]["path"])

    assert path("here") == str(tmp_path / "here")
    assert path("org/toxic-bert") == "org/toxic-bert"


def test_what_a_job_may_say_about_texts_loads_without_torch_or_transformers() -> None:
    code = (
        "import sys, evaluators.generation\n"
        "print([m for m in ('torch', 'lm_eval', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
