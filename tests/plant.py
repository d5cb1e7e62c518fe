"""Plant known mistakes in copies of the model files, one at a time, and see that each makes a test fail.

    python -m tests.plant                 all models
    python -m tests.plant wgan vq_vae     some

The mistakes are listed in `tests/mistakes/<model>.yaml`. Each has `mistake` (a description), `old` (a piece of the
model's file, or of another `file` under src/visage, that occurs exactly once) and `new` (its replacement). A mistake
must be caught by `tests/models/test_<model>.py`, by the tests of the other file that it is planted in, or by the
conformance suite; they run in this order. The working tree never changes. Exits with status 1 if a mistake goes unseen.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
MISTAKES = ROOT / "tests" / "mistakes"
NEEDED = ("src", "tests", "params.yaml", "pyproject.toml", "dvc.yaml")


class Mistake(NamedTuple):
    """One edit of a file that must not go unseen."""

    model: str
    mistake: str
    old: str
    new: str
    file: str = ""

    def plant(self, text: str) -> str:
        """Return the file's text with the mistake in it.

        Raises:
            ValueError: the place to edit is not there, or not unique.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.model}: {self.mistake}: `old` occurs {text.count(self.old)} times, must be 1")
        return text.replace(self.old, self.new)


def mistakes(model: str) -> list[Mistake]:
    """The mistakes listed for a model."""
    return [Mistake(model, **entry) for entry in YAML(typ="safe").load(MISTAKES / f"{model}.yaml")]


def place(mistake: Mistake, root: Path = ROOT) -> Path:
    """The file that the mistake is planted in."""
    return root / "src" / "visage" / (mistake.file or f"models/{mistake.model}.py")


def recipes_of(model: str) -> list[str]:
    """The recipes that use the model's file."""
    recipes = YAML(typ="safe").load(ROOT / "params.yaml")["recipes"]
    return [name for name, recipe in recipes.items() if recipe.get("file", name) == model]


def seen_by(copy: Path, mistake: Mistake) -> str:
    """The first test that fails in the copy, or an empty string if all pass."""
    where = place(mistake).relative_to(ROOT / "src" / "visage")
    tests = dict.fromkeys([f"tests/models/test_{mistake.model}.py", f"tests/{where.parent}/test_{where.name}"])
    conformance = ["tests/models/test_conformance.py", "-k", " or ".join(f"[{r}" for r in recipes_of(mistake.model))]
    for what in (*([test] for test in tests), conformance):
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-m",
            "not cluster",
            *what,
        ]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{what} could not be run in the copy:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if done.returncode == 1:
            return re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)", done.stdout, re.MULTILINE)[0]
    return ""


def main(models: list[str]) -> int:
    """Plant every mistake of these models, print which test caught it, and return the number of unseen ones."""
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            bring = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            bring(ROOT / name, copy / name)
        for mistake in (m for model in models for m in mistakes(model)):
            text = place(mistake).read_text()
            place(mistake, copy).write_text(mistake.plant(text))
            test = seen_by(copy, mistake)
            place(mistake, copy).write_text(text)
            unseen += not test
            print(f"{'seen  ' if test else 'UNSEEN'} {mistake.model}: {mistake.mistake}  ({test})", flush=True)
    return unseen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or sorted(path.stem for path in MISTAKES.glob("*.yaml"))) and 1)
