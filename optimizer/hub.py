"""Push an export to the Hugging Face Hub."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer.errors import InputError, JobFailed, first_line

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_push(repository: str) -> None:
    """Refuse, before any work, a push that cannot be made.

    Raises `InputError` where the name is none, nobody is logged in, or the repository holds something already.
    """
    from huggingface_hub import HfApi

    if not _NAME.fullmatch(repository):
        raise InputError(f"--push-to-hub takes a name like `owner/model`, but got {repository!r}.")
    api = HfApi()
    try:
        api.whoami()
        files = api.list_repo_files(repository) if api.repo_exists(repository) else []
    except Exception as error:  # without a network it raises what its HTTP library does, which changes with versions
        raise InputError(
            f"{repository}: the Hub does not let you in ({first_line(error)}); log in with `hf auth login`, or leave "
            "--push-to-hub out and push later with `hf upload`."
        ) from error
    taken = [file for file in files if file not in (".gitattributes", "README.md")]
    if taken:
        raise InputError(
            f"{repository}: must be new or empty, but holds {len(taken)} files, first {taken[0]}; choose another name."
        )


def push(folder: Path, repository: str, public: bool, say: Callable[[str], None]) -> str:
    """Upload a whole folder; returns its address. A new repository is private unless `public`.

    Raises `JobFailed` where the Hub fails; the folder stays, and `hf upload` can go on from there.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    say(f"Pushing to {repository}")
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done: Any = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add a merge by mergeopt")
    except Exception as error:  # whatever it is, the model is there and its reader must hear where
        raise JobFailed(
            f"{repository}: the push failed ({first_line(error)}). The model is whole in {folder}; go on with: "
            f"hf upload {repository} {folder}"
        ) from error
    return str(done.commit_url if hasattr(done, "commit_url") else done)
