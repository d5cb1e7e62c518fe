"""What can be read off the files: nothing that one system alone has, wherever the code may run."""

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
STAGES = sorted((ROOT / "stages").glob("*.py"))
GUARDED = {
    "fork_server.py": "ForkServer opens no socket without os.pidfd_open, and stages ask none that there is not",
    "pipeline/leash.py": "only Task starts it",
    "pipeline/task.py": "Task refuses Windows",
    "tracking/connection.py": "connect logs in a thread without socket.AF_UNIX",
}
"""Modules that use what a system lacks, and why they never do so there; `test_windows.py` runs that."""


@pytest.mark.parametrize(("system", "allowed"), [("win32", GUARDED.keys()), ("darwin", {"fork_server.py"})])
def test_the_standard_library_has_on_each_system_what_is_used(system, allowed):
    """By typeshed, which says what each system has; mypy knows `sys.platform` and `hasattr`."""
    names = re.compile(
        rb"^\s*(import|from) (fcntl|multiprocessing|os|resource|select|signal|socket|time)\b", re.MULTILINE
    )
    files = [str(path) for path in SOURCES if names.search(path.read_bytes())]
    options = ["--config-file=", "--follow-imports=skip", "--ignore-missing-imports", "--no-error-summary"]
    cache = ROOT / ".mypy_cache" / system
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--platform", system, *options, "--cache-dir", str(cache), *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if "Module has no attribute" in line]
    wrong = [line for line in found if line.split(":")[0].removeprefix("src/visage/") not in allowed]
    assert found, done.stderr + done.stdout  # of what is guarded: mypy has looked
    assert not wrong, "\n".join(wrong)


def is_binary(call):
    modes = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def opens_text(call):
    """Whether a call reads or writes text in whatever encoding the system prefers, as far as names tell."""
    words = {word.arg for word in call.keywords}
    if not isinstance(call.func, ast.Attribute) or "encoding" in words:
        return False
    name, owner = call.func.attr, getattr(call.func.value, "id", "")
    if name in ("read_text", "write_text"):
        return True
    return name in ("open", "makefile") and not is_binary(call) and owner not in ("Image", "Tracker", "gzip", "cls")


def test_text_files_have_an_encoding():
    found = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and opens_text(node)]
        found |= {f"{path.name}: {ast.unparse(call)}" for call in calls}
    assert (
        found
        == {
            "tables.py: read_text(path)",  # its own, of files that somebody else wrote
            "demo.py: webbrowser.open(address)",
            "download.py: part.open('ab' if start else 'wb')",
        }
        & found
    )


def test_file_names_are_right_for_every_file_system():
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert names
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ](/|$)', name), name
        assert not re.search(r"(?i)(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", name), name
        assert len(name) < 120, name  # Windows has room for 260 characters, with the folder of the project


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.stem)
def test_a_stage_runs_the_code_beside_it_whatever_is_installed(stage, tmp_path):
    """As DVC's temporary copies of the project must, and without variables, which each shell sets in its own way."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / stage.name).write_bytes(stage.read_bytes())
    (tmp_path / "src" / "visage").mkdir(parents=True)
    (tmp_path / "src" / "visage" / "__init__.py").write_text("raise SystemExit(__file__)\n")
    done = subprocess.run(
        [sys.executable, f"stages/{stage.name}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.strip() == str(tmp_path / "src" / "visage" / "__init__.py")


def test_git_leaves_the_ends_of_lines_as_they_are():
    """DVC compares bytes."""
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text().splitlines()
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", *(f"stages/{stage.name}" for stage in STAGES)):
        assert b"\r" not in (ROOT / name).read_bytes(), name
