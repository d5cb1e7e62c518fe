"""Clones of the project with tiny settings, as the machines of a cluster have them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.test_pipeline import call


def clone(source: Path, folder: Path, cache: Path | None = None) -> Path:
    """A clone of a project, with DVC's cache in a folder that others share."""
    call(source.parent, "git", "clone", "-q", str(source), str(folder))
    if cache:
        call(folder, "dvc", "cache", "dir", "--local", str(cache))
    return folder


def begin(project: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """`python -m visage.pipeline...` in a clone."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC", "RAY"))}
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=project,
        env=inherited | {"PYTHONPATH": "src", "DVC_NO_ANALYTICS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit status, its output and its errors."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
