"""Images under a model, as rows of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visage.using.loaded import LoadedModel

COLUMNS = {"exact": "log_prob", "lower bound": "elbo", "estimate": "log_prob_estimate"}
"""What a column with log-likelihoods is called, by their kind."""
DIGITS = 7


def rows(model: LoadedModel, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """For each image its name, its log-likelihood in nats and bits/dim, and each score with its percentile.

    pixels: (n, size, size, 3). Percentiles are left out where the model was not evaluated.
    """
    columns: dict[str, Sequence[Any]] = {"file": names}
    dims = pixels[0].size
    scores = model.scores(pixels)
    if model.likelihood_kind:
        columns[COLUMNS[model.likelihood_kind]] = _short(-scores["nll"] * dims * np.log(2))
    for name, values in scores.items():
        columns["bits_per_dim" if name == "nll" else name] = _short(values)
        if model.measured(name):
            columns[f"{'bits_per_dim' if name == 'nll' else name}_percentile"] = [
                f"{p:.1f}" for p in model.percentiles(name, values)
            ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _short(values: NDArray[np.float64]) -> list[str]:
    return [f"{value:.{DIGITS}g}" for value in values]
