"""What a user is called in listings and in the audit trail, which others read on their terminals."""

import pytest

from optimizer.audit import user


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ada", "ada"),
        ("Zoë 模型", "Zoë 模型"),
        ("ada\x1b[2J\x07", "ada?[2J?"),
        ("ada\ndone  bob", "ada?done  bob"),
        ("a\udcffb", "a?b"),
        ("\u202eada", "?ada"),
    ],
)
def test_a_name_reaches_no_terminal_with_control_characters(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    monkeypatch.setenv("MERGEOPT_USER", name)
    assert user() == shown
