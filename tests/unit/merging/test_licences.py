"""A merge says what its parents' licences ask of it."""

import pytest

from merging.licences import judged


@pytest.mark.parametrize(
    ("parents", "merged"),
    [
        ({"base": "apache-2.0", "a": "apache-2.0"}, "apache-2.0"),
        ({"base": "apache-2.0", "a": "mit"}, None),
        ({"base": "apache-2.0", "a": "llama3.1"}, "llama3.1"),
        ({"base": "mit", "a": "gpl-3.0"}, "gpl-3.0"),
        ({"base": "gpl-3.0", "a": "cc-by-nc-4.0"}, None),
        ({"base": "apache-2.0", "a": None}, None),
        ({"base": "Apache-2.0", "a": "other"}, None),
    ],
)
def test_a_merge_carries_a_licence_only_where_one_is_right(parents: dict[str, str | None], merged: str | None) -> None:
    assert judged(parents).merged == merged


@pytest.mark.parametrize(
    ("parents", "said"),
    [
        ({"a": "cc-by-nc-4.0"}, "`a` is under cc-by-nc-4.0: the merge must not be used commercially"),
        ({"a": "cc-by-nd-4.0"}, "forbids to pass on changed versions"),
        ({"a": "apache-2.0", "b": "gpl-3.0"}, "`b` is under gpl-3.0: the merge must be passed on under it too"),
        ({"a": "gpl-3.0", "b": "llama3"}, "may not be mixed"),
        ({"a": "creativeml-openrail-m"}, "restrictions of use"),
        ({"a": "gemma"}, "terms of its own"),
        ({"a": None, "b": "mit"}, "No licence is stated for `a`"),
        ({"a": "mit", "b": "apache-2.0"}, "keep the notices of each"),
    ],
)
def test_what_a_licence_asks_is_said(parents: dict[str, str | None], said: str) -> None:
    assert any(said in warning for warning in judged(parents).warnings)


def test_permissive_licences_of_one_kind_ask_for_nothing_to_be_noticed() -> None:
    assert judged({"base": "apache-2.0", "a": "apache-2.0"}).warnings == ()
