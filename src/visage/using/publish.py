"""An exported model on a Hugging Face hub."""

import re
import shutil
import tempfile
import warnings
from pathlib import Path

from visage.errors import UserError
from visage.files import replacing_folder
from visage.redaction import HIDDEN, redact
from visage.using.exported import SUFFIXES, is_export, read_export, refuse_other

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
OURS = [
    *("results.json", "scores.npz", "directions.npz"),
    *(f"{name}{end}" for name in ("encode", "decode", "reconstruct", "translate_to_*") for end in SUFFIXES.values()),
]
"""Files that one export has and the next may not have: those of an earlier one are removed from the repository."""
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def publish(source: str, repo: str, *, private: bool = False) -> str:
    """Upload a model to `repo` on the hub, which is made where it is missing; its address.

    source: an exported folder, or a run, which is exported first. repo: owner/name. private: only the owner sees it.

    Raises:
        UserError: the package or a token is missing, the hub cannot be reached or refuses, a repository that is asked
            to be private exists and is not; or as in `export`.
    """
    _check(repo)
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise UserError("publishing needs the package huggingface_hub: `uv sync --extra hub`") from error
    token = get_token()
    if token is None:
        raise UserError(f"there is no token for the hub: {LOGIN}")
    with tempfile.TemporaryDirectory(prefix="visage-") as temporary:
        return _upload(_exported(source, Path(temporary) / "export"), repo, private, token)


def publish_to_folder(source: str, repo: str, root: Path) -> Path:
    """Write what `publish` uploads into `root`/owner/name, to look at it or to push it by git.

    Raises:
        UserError: as in `export`.
    """
    _check(repo)
    target = root / repo
    refuse_other(target)
    with tempfile.TemporaryDirectory(prefix="visage-") as temporary:
        folder = _exported(source, Path(temporary) / "export")
        with replacing_folder(target.resolve()) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
    return target


def _check(repo: str) -> None:
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UserError(f"{repo!r} is no name of a repository: write OWNER/NAME")


def _exported(source: str, temporary: Path) -> Path:
    """The folder that is published: `source`, if it is an export, else one that is written now."""
    folder = Path(source)
    if is_export(folder):
        read_export(folder)
        return folder
    from visage.using.export import export  # with PyTorch, which takes seconds

    export(source, temporary)
    return temporary


def _upload(folder: Path, repo: str, private: bool, token: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # its HTTP client's

    api, run = HfApi(token=token), read_export(folder).run
    try:
        found = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(found.repo_id).private:
            raise UserError(f"{repo} is there and public: make it private in its settings, or name another repository")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about words in the card's head that the hub does not know
            api.upload_folder(
                repo_id=found.repo_id, folder_path=folder, commit_message=f"Visage {run}", delete_patterns=OURS
            )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        fix = f"it may be another's, or the token may not write: {LOGIN}" if status in (401, 403, 404) else "try later"
        raise UserError(f"the hub refuses {repo} ({_line(error, token)}): {fix}") from error
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{repo} was not uploaded ({_line(error, token)}): check the network, and HF_ENDPOINT if it is set"
        ) from error
    return str(found)


def _line(error: Exception, token: str) -> str:
    """What an error says, in one line without the token."""
    return redact(" ".join(str(error).split()).replace(token, HIDDEN))[:200] or type(error).__name__
