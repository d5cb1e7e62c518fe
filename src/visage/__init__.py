"""Train, measure and compare deep generative models of faces, under one protocol.

`visage.load` gives a trained model to whoever wants to sample from it, put photographs through it, or score them.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

if find_spec("pydantic") is None:  # as when a `dvc` that was called by its path runs a stage with another Python
    raise ImportError(
        f"{sys.executable} lacks the packages of this project: type `uv run dvc repro`, or activate .venv first"
    )

__all__ = ["load"]


def load(run: str | os.PathLike[str], *, device: str = "auto", settings: dict[str, Any] | None = None) -> Any:
    """Load a trained model: a `visage.using.loaded.LoadedModel`.

    >>> model = visage.load("vae-32-0")                # doctest: +SKIP
    >>> model.sample(16, seed=0).shape                 # doctest: +SKIP
    (16, 32, 32, 3)

    run: the name of a run as the page shows it, `vae-64-0`, or `vae-64` for the lowest seed that was trained, of the
        project in or above the working directory; or a folder anywhere, `runs/<run>` or one that `visage export` wrote.
    device: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps.
    settings: other values for settings of the model that its weights do not depend on, such as
        {"sampling_steps": 100}.

    Raises:
        visage.errors.UserError: there is no such run, or no such device; a setting is unknown or does not fit.
    """
    # by name, so that the code of trainings, which depend on this file, is not taken to depend on that
    return import_module("visage.using.loaded").load(run, device=device, settings=settings)
