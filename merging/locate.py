"""Find the folder of a source: a local one, or a snapshot of a Hugging Face Hub repository."""

import re
from pathlib import Path

from merging.errors import CheckpointError
from merging.recipe import Source

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "README.md"]
# Some repositories keep the weights twice: in the trainer's own layout beside the one transformers reads.
_UNWANTED = ["consolidated*", "*/*.safetensors", "original/*", "onnx/*"]


def locate(source: Source) -> tuple[Path, bool]:
    """The source's folder, and whether it came from the Hub. A local path wins if it exists.

    Raises `CheckpointError` where there is neither a folder nor a repository of that name.
    """
    try:
        local = Path(source.path).expanduser()
        is_folder, is_there = local.is_dir(), local.exists()
    except (OSError, RuntimeError) as error:  # a name too long for any file, `~` of nobody
        said = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{source.path[:200]}: cannot be looked for ({said}); check it.") from error
    if is_folder:
        if source.revision is not None:
            raise CheckpointError(
                f"{source.path}: a revision belongs to a Hub id, but this is a local folder and "
                f"`{source.revision}` was asked for; remove `revision`, or rename the folder if the Hub "
                "repository was meant."
            )
        return local, False
    if is_there:
        raise CheckpointError(f"{source.path}: must be a model folder, but is a file; give the folder it is in.")
    if not _HUB_ID.fullmatch(source.path):
        raise CheckpointError(
            f"{source.path}: there is no such folder, and it is not a Hub id (`owner/name`); check the spelling."
        )
    return _snapshot(source), True


def _snapshot(source: Source) -> Path:
    from huggingface_hub import snapshot_download  # imported late: the CLI's --help must not wait for it

    try:
        return Path(
            snapshot_download(source.path, revision=source.revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
        )
    except (OSError, ValueError) as error:  # every Hub error is one of the two
        at = f" at revision `{source.revision}`" if source.revision else ""
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
        raise CheckpointError(
            f"{source.path}: there is no such folder, and the Hub gives no such model{at} ({said}). "
            "Check the spelling, log in with `hf auth login` if it is gated, or download it while online."
        ) from error
