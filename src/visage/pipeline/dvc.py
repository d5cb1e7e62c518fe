"""What is asked of DVC, each time by a command of its own."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from visage.errors import UserError

NO_GIT = "is not a git repository"
"""What DVC says in a folder that was downloaded without its history."""
BUSY = "is busy, it is being blocked by"
"""What DVC says of a stage's files while another DVC runs the stage."""
BUSY_SECONDS = 2.0
LINE = re.compile(r'^"([^"]+)"(?: -> "([^"]+)")?;$', re.MULTILINE)
"""Of `dvc dag --dot`: a stage, or a stage and one that reads its outputs."""


def command(*words: str) -> list[str]:
    """`dvc ...` by the Python that runs now; it waits where another DVC holds the project's lock."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *words]


def needs(root: Path) -> dict[str, set[str]]:
    """The stages, and for each of them the stages whose outputs it reads.

    Raises:
        UserError: DVC cannot read the pipeline.
    """
    found: dict[str, set[str]] = {}
    for stage, reader in LINE.findall(_ask(root, "dag", "--dot")):
        found.setdefault(stage, set())
        if reader:
            found.setdefault(reader, set()).add(stage)
    return found


def out_of_date(root: Path) -> set[str]:
    """The stages whose code, settings, inputs or outputs have changed, as they are now.

    DVC does not say while a stage runs. Where one does, perhaps because an earlier call was killed and its stages were
    not, this waits for it.

    Raises:
        UserError: DVC cannot read the pipeline.
    """
    return set(json.loads(_ask(root, "status", "--json")))


def default_remote(root: Path) -> str:
    """The remote that `dvc push` and `dvc pull` use by themselves; empty where there is none.

    Raises:
        UserError: DVC cannot read the project.
    """
    return _ask(root, "config", "core.remote").strip()


def cache_folder(root: Path) -> str:
    """Where DVC's cache of the project is.

    Raises:
        UserError: DVC cannot read the project.
    """
    return _ask(root, "cache", "dir").strip()


def _ask(root: Path, *words: str) -> str:
    waiting = False
    while True:
        done = subprocess.run(command("--quiet", *words), cwd=root, capture_output=True, text=True, check=False)
        if not done.returncode:
            return done.stdout
        if NO_GIT in done.stderr:
            raise UserError(
                f"{root} is no git repository, which DVC needs: use `git clone` to get one, or `git init` in it"
            )
        if BUSY not in done.stderr:
            raise UserError(f"`dvc {' '.join(words)}` failed: {last_error(done.stderr)}")
        if not waiting:
            print("waiting for a stage that another DVC runs here", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(BUSY_SECONDS)


def last_error(text: str) -> str:
    """What went wrong, from the output of a stage and of DVC: the line that a stage ends with, or else DVC's."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    errors = [line[len("error: ") :] for line in lines if line.lower().startswith("error: ")]
    return next(iter(errors or [line for line in reversed(lines) if line]), "it said nothing")


def stages_that_ran(text: str) -> Sequence[str]:
    """The stages that a `dvc repro` with this output ran."""
    return re.findall(r"^Running stage '([^']+)':", text, re.MULTILINE)
