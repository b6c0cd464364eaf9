"""Write a prepared merge as a model's folder, complete or absent."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from merging.card import licence_notes, lineage, metadata
from merging.folder import write_steps
from merging.licences import licences_of
from merging.mergekit.prepare import Prepared, prepare
from merging.mergekit.read import ConfigFile
from merging.provenance import PROVENANCE_FILE, manifest

CONFIG_FILE = "mergekit_config.yml"
Say = Callable[[str], None]


def merge_file(
    file: ConfigFile,
    folder: Path,
    say: Say,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Carry out the merges of a file; the result goes into `folder`, what it is made from is removed again.

    Raises `CheckpointError`, `MergeError` or `OSError`; nothing is left behind then.
    """
    with intermediates(file, folder, say, seed, threads, device) as named:
        last = file.configs[-1]
        ready = prepare(last, file.path.resolve().parent, named, seed)
        for remark in ready.remarks:
            say(remark)
        write_prepared(ready, folder, file.text, threads, device, on_progress)


@contextmanager
def intermediates(
    file: ConfigFile, folder: Path, say: Say, seed: int = 0, threads: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, Path]]:
    """The results of all configs of a file but the last, by their names, in a folder beside `folder` for a while."""
    named: dict[str, Path] = {}
    with ExitStack() as stack:
        if len(file.configs) > 1:
            folder.parent.mkdir(parents=True, exist_ok=True)
            place = Path(stack.enter_context(TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.merges.")))
        for config in file.configs[:-1]:
            assert config.name is not None
            ready = prepare(config, file.path.resolve().parent, named, seed)
            for remark in ready.remarks:
                say(f"{config.name}: {remark}")
            say(f"Merging `{config.name}`, from which others are made")
            write_prepared(ready, place / str(len(named)), None, threads, device)
            named[config.name] = place / str(len(named))
        yield named


def write_prepared(
    ready: Prepared,
    folder: Path,
    text: str | None,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write weights, config, tokenizer, and a card with `text`, the config that made them, where there is one.

    Raises `MergeError` where the folder exists or the merge fails, `OSError` where the disk does; nothing is left then.
    """

    def finish(building: Path) -> None:
        if ready.vocabulary.tokenizer is not None:
            _take_out_tokenizers(building)
            ready.vocabulary.tokenizer.save(building)
        if ready.chat_template is not None:
            _set_template(building, ready.chat_template)
        if text is not None:
            (building / CONFIG_FILE).write_text(text, encoding="utf-8")
            facts = {"method": ready.config.merge_method, "seed": ready.seed, "config": text}
            (building / PROVENANCE_FILE).write_text(manifest(ready.opened, facts), encoding="utf-8")
            (building / "README.md").write_text(_card(ready, folder.name, text), encoding="utf-8")

    write_steps(
        ready.steps,
        ready.donor,
        folder,
        finish=finish,
        config=ready.config_json or None,
        threads=threads,
        device=device,
        on_progress=on_progress,
    )


def _take_out_tokenizers(building: Path) -> None:
    """Other tokenizer files than the one that is written anew would say something else."""
    for pattern in ("tokenizer.model", "vocab.*", "merges.txt", "added_tokens.json", "*.tiktoken"):
        for file in building.glob(pattern):
            file.unlink()


def _set_template(building: Path, template: str) -> None:
    (building / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = building / "tokenizer_config.json"
    if settings.is_file():
        content = json.loads(settings.read_text(encoding="utf-8"))
        if content.pop("chat_template", None) is not None:
            settings.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _card(ready: Prepared, name: str, text: str) -> str:
    parents = ready.opened
    licences = licences_of({label: parent.folder for label, parent in parents.items()})
    parts = [
        f"---\n{metadata(list(parents.values()), licences.merged)}\n---",
        f"# {name}",
        f"Merged by mergeopt from a config of mergekit, with its `{ready.config.merge_method}`.",
        f"## Config\n\n```yaml\n{text.strip()}\n```",
        lineage(parents, None),
        *([licence_notes(licences)] if licences.warnings else []),
    ]
    return "\n\n".join(parts) + "\n"
