"""Say how the tokens of several models differ, before rows of their embeddings are merged."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from merging.tokenizers.known import KnownTokens

_FEW = 5


def token_report(models: Mapping[str, KnownTokens | None]) -> dict[str, Any]:
    """Plain data. For each model: how many rows and tokens it has, tokens without a row, rows without a token; against
    the first model that has a tokenizer.json, which tokens it `lacks`, has `more`, or has at other rows (`moved`).

    `union` is how many tokens they have together, `alike` whether every token has one row in all of them, `same_rows`
    whether all have as many rows; both None where those that are known agree, and some model has no tokenizer.json.
    """
    known = {name: one for name, one in models.items() if one is not None}
    first = next(iter(known), None)
    owners: dict[str, list[str]] = {}
    for name, one in known.items():
        for token in one.ids:
            owners.setdefault(token, []).append(name)
    rows = {name: _against(one, known[first]) if first is not None else {} for name, one in known.items()}
    alike = all(not (row["lacks"] or row["more"] or row["moved"]) for row in rows.values())
    same_rows = all(one.rows == known[first].rows for one in known.values()) if first is not None else True
    complete = len(known) == len(models)
    return {
        "first": first,
        "alike": alike if complete or not alike else None,
        "same_rows": same_rows if complete or not same_rows else None,
        "union": len(owners),
        "in_all": sum(len(names) == len(known) for names in owners.values()),
        "models": {
            name: {
                "rows": one.rows,
                "tokens": len(one.ids),
                "padding": one.padding,
                "unused": list(one.unused),
                "own": [token for token, names in owners.items() if names == [name]],
                **rows[name],
            }
            if one is not None
            else None
            for name, one in models.items()
        },
    }


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as text, a few tokens of each list, and what to do about it."""
    yield from model_lines(report)
    if report["alike"] is None:
        unknown = ", ".join(name for name, one in report["models"].items() if one is None)
        yield (
            f"Whether tokens have the same rows in all models cannot be told without the tokenizer.json of {unknown}; "
            "make it: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`."
        )
    elif report["alike"] and report["same_rows"]:
        yield "Every token has the same row in all models: they can be merged as they are."
    elif report["alike"]:
        yield "Every token has the same row in all models, but some have more padding; it is cut."
    else:
        yield (
            f"Together they have {report['union']} tokens, {report['in_all']} of them in all models. Merge them by "
            "token: `tokenizer: {source: union}`, or `base`, in a merge config (docs/mergekit.md)."
        )


def model_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say of each model."""
    for name, one in report["models"].items():
        if one is None:
            yield f"{name}: has no tokenizer.json"
            continue
        yield f"{name}: {one['tokens']} tokens in {one['rows']} rows, {one['padding']} of them padding"
        if one["unused"]:
            yield f"  {_few(one['unused'])} without a row"
        for key, says in (
            ("more", "that {} lacks"),
            ("lacks", "of {} are absent"),
            ("moved", "have other rows than in {}"),
        ):
            if one[key]:
                yield f"  {_few(one[key])} {says.format(report['first'])}"


def _against(one: KnownTokens, first: KnownTokens) -> dict[str, list[str]]:
    return {
        "lacks": [token for token in first.ids if token not in one.ids],
        "more": [token for token in one.ids if token not in first.ids],
        "moved": [token for token, row in one.ids.items() if first.ids.get(token, row) != row],
    }


def _few(tokens: Sequence[str]) -> str:
    shown = ", ".join(repr(token) for token in tokens[:_FEW])
    rest = f" and {len(tokens) - _FEW} more" if len(tokens) > _FEW else ""
    return f"{len(tokens)} token{'s' if len(tokens) != 1 else ''} ({shown}{rest})"
