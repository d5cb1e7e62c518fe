"""Train, measure and compare deep generative models of faces, under one protocol."""

import sys
from importlib.util import find_spec

if find_spec("pydantic") is None:  # as when a `dvc` that was called by its path runs a stage with another Python
    raise ImportError(
        f"{sys.executable} lacks the packages of this project: type `uv run dvc repro`, or activate .venv first"
    )
