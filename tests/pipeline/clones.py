"""Clones of the project with tiny settings, as the machines of a cluster have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.test_pipeline import SETTINGS, call, change


def origin(folder: Path) -> Path:
    """A git repository that holds the project, without results, and with tiny settings."""
    folder.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "stages", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    change(folder, SETTINGS)
    call(folder, "git", "init", "-q")
    call(folder, "git", "config", "user.email", "test@example.org")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "dvc", "init", "-q")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "work")


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
