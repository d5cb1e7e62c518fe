"""What `mlflow.pyfunc.load_model` calls: trained weights, where DVC keeps them, as a function that draws images.

mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.pyfunc.load_model("models:/visage-32@best-fd").predict({"n": 16, "seed": 0})   # (16, 32, 32, 3) uint8
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visage.errors import UserError
from visage.files import sha256
from visage.results import read
from visage.tracking.models import Pointer
from visage.using.loaded import LoadedModel, load

if TYPE_CHECKING:
    from pandas import DataFrame


class Sampler:
    """A trained model on the CPU, asked in MLflow's way."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def predict(self, model_input: "DataFrame", params: dict[str, Any] | None = None) -> NDArray[np.uint8]:
        """Draw images, those of `LoadedModel.sample`.

        model_input: a row for each request, with the column n, the number of images, and perhaps seed (0 where it is
            left out or empty). MLflow makes it of a dict, too.
        params: none are known; MLflow asks for the argument.

        Returns:
            (sum of n, S, S, 3) uint8, the images of the first request first.

        Raises:
            UserError: the model draws no samples, or a number is out of range.
        """
        drawn = []
        for request in model_input.to_dict("records"):
            n, seed = int(request["n"]), _whole(request.get("seed"))
            if n < 1 or seed < 0:
                raise UserError(f"n must be at least 1 and seed at least 0, got n={n}, seed={seed}")
            drawn.append(self.model.sample(n, seed=seed))
        return np.concatenate(drawn)


def _whole(seed: object) -> int:
    """The seed of a request; pandas puts NaN or NA where a row has none."""
    from pandas import isna

    return 0 if seed is None or isna(seed) else int(seed)  # type: ignore[call-overload]


def _load_pyfunc(path: str) -> Sampler:
    """Load the weights that a model names, from the project in the working directory or above it, or in DVC_ROOT.

    path: of a `Pointer`, which MLflow has fetched.

    Raises:
        UserError: the weights are not there, or are those of another training.
    """
    pointer = read(Path(path), Pointer)
    folder = _folder(pointer)
    if sha256(folder / "model.safetensors") != pointer.sha256:
        raise UserError(
            f"{folder / 'model.safetensors'} holds other weights than this model of {pointer.run}: `git checkout` the "
            "commit that trained it and run `dvc checkout` or `dvc pull`, or load the model of the run as it is now"
        )
    return Sampler(load(folder, device="cpu"))


def _folder(pointer: Pointer) -> Path:
    start = Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()
    for root in (start, *start.parents):
        if (root / pointer.folder / "model.safetensors").is_file():
            return root / pointer.folder
    raise UserError(
        f"{pointer.folder}/model.safetensors is neither in {start} nor above it: load the model in the project's "
        f"folder, after `dvc pull train@{pointer.run}` or `dvc repro train@{pointer.run}`"
    )
