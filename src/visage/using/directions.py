"""Directions among a model's codes: those in which training faces vary most, and those of their attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from visage.errors import UserError
from visage.files import replacing

PRINCIPAL = 8
"""Principal directions that are kept."""
FACES = 2000
"""Training faces whose codes are looked at; as many fewer as a code takes network calls."""
RIDGE = 1.0
"""Penalty of the regression, in faces: rare attributes are not told apart by a handful of them."""


@dataclass(frozen=True, slots=True)
class Directions:
    """What codes of faces are like.

    mean: (D,) of the codes. principal: (K, D), the directions of the largest variance, each one standard deviation
    long; share: (K,) of the variance. names: the A attributes; attributes: (A, D), how a code changes where a face
    gets the attribute and keeps all others, by ridge regression. faces: behind all of it.
    """

    mean: NDArray[np.float32]
    principal: NDArray[np.float32]
    share: NDArray[np.float64]
    names: tuple[str, ...]
    attributes: NDArray[np.float32]
    faces: int

    @classmethod
    def fit(cls, codes: NDArray[np.float32], y: NDArray[np.uint8], names: Sequence[str]) -> "Directions":
        """Learn from codes (n, D) and attributes y (n, A) in {0, 1}; those that all or no faces have are left out."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge

        varies = y.min(0, initial=1) != y.max(0, initial=0)
        kept = tuple(name for name, differs in zip(names, varies, strict=True) if differs)
        found = np.zeros((0, codes.shape[1]), np.float32)
        if kept:
            found = Ridge(RIDGE).fit(y[:, varies].astype(np.float32), codes).coef_.T.astype(np.float32)
        pca = PCA(min(PRINCIPAL, *codes.shape), random_state=0).fit(codes)
        scaled = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
        return cls(
            mean=codes.mean(0),
            principal=scaled.astype(np.float32),
            share=pca.explained_variance_ratio_,
            names=kept,
            attributes=found,
            faces=len(codes),
        )

    def of(self, attribute: str) -> NDArray[np.float32]:
        """The direction (D,) of one attribute.

        Raises:
            UserError: it is not known.
        """
        if attribute not in self.names:
            raise UserError(f"there is no attribute {attribute}: name one of {', '.join(self.names) or 'none'}")
        found: NDArray[np.float32] = self.attributes[self.names.index(attribute)]
        return found

    def save(self, path: Path) -> None:
        """Write an NPZ file."""
        with replacing(path) as temporary:
            np.savez(
                temporary,
                allow_pickle=False,
                mean=self.mean,
                principal=self.principal,
                share=self.share,
                names=np.array(self.names, np.str_),
                attributes=self.attributes,
                faces=np.array(self.faces),
            )

    @classmethod
    def load(cls, path: Path) -> "Directions":
        """Read what `save` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            names = tuple(str(name) for name in arrays.pop("names"))
            return cls(names=names, faces=int(arrays.pop("faces")), **arrays)
        except (OSError, ValueError, EOFError, KeyError, TypeError, BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}): export the model again") from error
