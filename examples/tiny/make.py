"""Make the tiny models and their tasks: `python examples/tiny/make.py [--out DIR] [--seed 0]`.

Writes `models/base`, `models/reverse`, `models/rotate` and `models/dedupe` as Hugging Face folders and lm-eval tasks
in `tasks/`, in one to two minutes of one core. A second call finds `tasks/complete.json`, which is written last, and
returns at once; whatever else it finds it makes anew.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("make.py", "muon.py", "network.py", "skills.py", "tasks.py", "train.py")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make tiny language models and lm-eval tasks to merge them on.")
    parser.add_argument("--out", type=Path, default=HERE, help="where models/ and tasks/ go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make(options.out.resolve(), options.seed, lambda line: print(line, flush=True))


def make(out: Path, seed: int, say: Callable[[str], None]) -> None:
    """Make everything below `out`, unless it is there, whole, from these sources, this seed and this folder."""
    marker, wanted = out / "tasks" / "complete.json", identity(out, seed)
    if marker.is_file() and json.loads(marker.read_text()) == wanted:
        say(f"{out}: complete, nothing to do")
        return
    for folder in (out / "tasks", out / "models"):  # the marker goes first
        shutil.rmtree(folder, ignore_errors=True)
    _make(out, seed, say)
    marker.write_text(json.dumps(wanted, indent=2) + "\n")
    say(f"{out}: models/ and tasks/ are complete")


def identity(out: Path, seed: int) -> dict[str, str | int]:
    """What a complete output depends on; the folder counts because the task files name their examples by full path."""
    content = b"".join((HERE / name).read_bytes() for name in SOURCES)
    return {"sources": hashlib.sha256(content).hexdigest(), "seed": seed, "folder": str(out)}


def _make(out: Path, seed: int, say: Callable[[str], None]) -> None:
    import torch
    from network import new_tokenizer
    from tasks import write_tasks
    from train import train_all
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)  # one order of additions, so the same bytes each time
    torch.use_deterministic_algorithms(True)
    models = {}
    for name, model in train_all(seed, say):
        model.save_pretrained(out / "models" / name)
        new_tokenizer().save_pretrained(out / "models" / name)
        (out / "models" / name / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
        models[name] = model
    say("tasks: writing the examples, with the models' wrong answers as options")
    write_tasks(out / "tasks", models, seed)


if __name__ == "__main__":
    main()
