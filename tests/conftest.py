import os

os.environ["VISAGE_TRACKING"] = "off"  # tests that want MLflow switch it on for their own store
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: the workers use all cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the same files

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from visage import params as parameters
from visage.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """The files that take longest start first, so that no core waits for them at the end."""
    first = ["test_pipeline.py", "test_report_browser.py"]
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the same sums everywhere, and no waiting for a busy neighbour's core


@pytest.fixture(scope="session", autouse=True)
def _own_sockets(tmp_path_factory):
    """Processes that log to MLflow for these tests meet the stages in a folder of their own, and end with it."""
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where it is
    folder = Path(tempfile.mkdtemp(prefix="visage-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function: a name, and what fills a folder -> that folder, filled by the first worker that asks; read only."""

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
        filled = folder.with_suffix(".filled")
        with FileLock(folder.with_suffix(".lock")):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def shipped() -> parameters.Params:
    """params.yaml as it is shipped."""
    return parameters.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def run_config(shipped):
    """A function: recipe, size, scale -> the config that params.yaml gives it with seed 0.

    Each is made once: the model is built for it, to see that it can be.
    """

    @functools.cache
    def make(recipe: str, size: int = 32, scale: str = "demo", **train) -> RunConfig:
        changed = shipped.model_copy(
            update={
                "runs": [f"{recipe}-{size}"],
                "seeds": [0],
                "preprocess": shipped.preprocess.model_copy(update={"sizes": [size]}),
                "scale": scale,
                "recipes": shipped.recipes | {recipe: _with_train(shipped.recipes[recipe], scale, train)},
            }
        )
        (run,) = parameters.resolve(changed, ROOT / "src")
        return run

    return make


def _with_train(recipe, scale, train):
    own = getattr(recipe, scale)
    return recipe.model_copy(update={scale: own.model_copy(update={"train": own.train | train})})


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """200 smooth, colourful 32x32 images, uint8: blobs on gradients, so that a model has something to learn."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:1:32j, 0:1:32j]
    out = np.empty((200, 32, 32, 3), np.uint8)
    for image in out:
        cx, cy, r = *rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.35)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < r * r)[..., None]
        background = rng.uniform(0, 120, 3) + 100 * x[..., None] * rng.uniform(0, 1, 3)
        image[:] = np.where(disc, rng.uniform(100, 255, 3), background) + rng.uniform(0, 8, (32, 32, 3))
    return out
