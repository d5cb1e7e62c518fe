"""What can be checked of the Dockerfile and of the example for GitHub Actions where neither can run."""

import re
import shlex
import subprocess
import tomllib

from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from tests.conftest import ROOT


def instructions():
    """The Dockerfile's instructions: a word, and the rest in one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_what_is_copied_is_there_and_what_is_made_here_stays_out():
    copied = [shlex.split(rest) for word, rest in instructions() if word == "COPY"]
    places = [words for words in copied if not words[0].startswith("--from")]
    assert places
    for words in places:
        assert words[0] == "--chown=visage"
        assert all((ROOT / name).exists() for name in words[1:-1]), words
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    made = {
        line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if not line.startswith(("#", "*"))
    }
    assert {name for name in made if name not in ignored and f"**/{name}" not in ignored} == set()
    assert not ignored & {".git", ".dvc", "configs", "metrics", "dvc.lock"}


def test_every_command_is_one_that_a_shell_and_make_understand():
    for word, rest in instructions():
        if word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    (command,) = [rest for word, rest in instructions() if word == "CMD"]
    assert command == '["make", "repro"]'
    planned = subprocess.run(
        ["make", "--dry-run", "repro", "UV_NO_SYNC=1"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "sync" not in planned  # which would take the image's PyTorch for a wrong one
    assert "-m visage.pipeline" in planned


def test_nothing_in_the_image_runs_as_root_once_its_system_is_complete():
    words = [word for word, _ in instructions()]
    assert ("USER", "visage") in instructions()
    assert words.index("USER") < words.index("CMD")
    assert words[: words.index("USER")].count("RUN") == 1


def test_the_image_and_the_matrix_have_versions_of_python_that_the_project_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    (image,) = [rest for word, rest in instructions() if word == "FROM" and rest.startswith("python:")]
    assert supported.contains(image.removeprefix("python:").split("-")[0] + ".5")
    matrix = YAML(typ="safe").load(ROOT / "docs" / "ci-matrix.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{i}" for i in range(20) if supported.contains(f"3.{i}.5")]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_the_matrix_names_tests_and_parameters_that_there_are():
    steps = YAML(typ="safe").load(ROOT / "docs" / "ci-matrix.yml")["jobs"]["tests"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    for name in re.findall(r"tests/\S+", commands):
        assert (ROOT / name).exists(), name
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for key in re.findall(r"-S '?([\w.]+)=", commands):
        section = params
        for word in key.split("."):
            assert word in section, key
            section = section[word]


def test_the_commands_without_make_are_what_make_runs():
    makefile = (ROOT / "Makefile").read_text()
    table = (ROOT / "docs" / "portability.md").read_text()
    for module in re.findall(r"python -m (visage\.\S+)", makefile):
        assert f"`uv run python -m {module}`" in table, module
    for target in re.findall(r"^\| `make ([\w-]+)`", table, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
