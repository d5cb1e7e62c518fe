"""Where trained models are: by the names of runs in a project, or in any folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from visage.errors import UserError

WEIGHTS, RUN = "model.safetensors", "run.json"
PROJECT = ("params.yaml", "dvc.yaml")
"""The files by which a project's root is known."""
NAME = re.compile(r"(?P<label>[a-z0-9_]+-\d+)(-(?P<seed>\d+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one trained model.

    trained: the folder with `run.json` and `model.safetensors`. evaluated: that with `results.json` and `scores.npz`,
    which may be missing. project: the root of the project that it was trained in, None where it was exported from it.
    """

    trained: Path
    evaluated: Path
    project: Path | None

    @property
    def configs(self) -> Path:
        """The folder with `evaluate.json`, by which the model was measured."""
        return self.project / "configs" if self.project else self.trained


def find_project(start: Path | None = None) -> Path:
    """The root of the project that a folder, by default the working directory, is in.

    Raises:
        UserError: it is in none.
    """
    start = (start or Path.cwd()).resolve()
    root = _project_of(start)
    if root is None:
        raise UserError(f"{start} is in no project (no {' and '.join(PROJECT)} there or above): change to your clone")
    return root


def find_run(run: str, start: Path | None = None) -> Place:
    """The files of a trained run.

    run: `vae-64-0`; `vae-64`, which is the lowest seed that was trained; or a folder. start: as in `find_project`.

    Raises:
        UserError: there is no such run; the message lists those that there are.
    """
    if Path(run).is_dir():
        return _in_folder(Path(run))
    if Path(run).is_file():
        raise UserError(f"{run} is a file: name a run, such as vae-32-0, or the folder that holds {RUN}")
    if not NAME.fullmatch(run):
        raise UserError(f"there is no folder {run}, and it is no run's name: `visage runs` lists those that there are")
    project = find_project(start)
    there = trained_runs(project)
    found = [name for name in there if name == run or name.rpartition("-")[0] == run]
    if not found:
        raise UserError(f"{project}: no trained run is called {run}: {_fix(project, run, there)}")
    return _of_project(project, found[0])


def trained_runs(project: Path) -> list[str]:
    """The names of all trained runs: recipe by recipe, then by size and seed."""
    names = [path.parents[1].name for path in project.glob(f"runs/*/train/{RUN}") if (path.parent / WEIGHTS).is_file()]
    return sorted(names, key=_order)


def _order(name: str) -> tuple[str, int, int]:
    recipe, size, seed = name.rsplit("-", 2)
    return recipe, int(size), int(seed)


def _fix(project: Path, run: str, there: list[str]) -> str:
    configured = sorted(path.stem for path in (project / "configs").glob(f"{run}*.json") if NAME.fullmatch(path.stem))
    train = [f"train it with `dvc repro train@{configured[0]}`"] if configured else []
    pull = ["train some with `make repro`, or fetch what was trained with `dvc pull`"] if not there else []
    known = [f"name one of {', '.join(there)}"] if there else []
    return "; or ".join(train + pull + known)


def _project_of(folder: Path) -> Path | None:
    return next((root for root in (folder, *folder.parents) if all((root / name).is_file() for name in PROJECT)), None)


def _of_project(project: Path, name: str) -> Place:
    folder = project / "runs" / name
    return Place(folder / "train", folder / "evaluate", project)


def _in_folder(folder: Path) -> Place:
    """The run in `runs/<run>`, `runs/<run>/train`, or an exported folder."""
    folder = folder.resolve()
    trained = folder / "train" if (folder / "train" / RUN).is_file() else folder
    missing = next((name for name in (RUN, WEIGHTS) if not (trained / name).is_file()), None)
    if missing:
        raise UserError(f"{trained} holds no {missing}: name a folder of runs/, or one that `visage export` wrote")
    project = _project_of(folder)
    if project and trained.name == "train" and trained.parents[1] == project / "runs":
        return _of_project(project, trained.parent.name)
    return Place(trained, trained, None)
