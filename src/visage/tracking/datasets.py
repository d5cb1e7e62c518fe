"""The sets of images of a run in MLflow: the faces that it learns from, those it is measured on, and other images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from visage.data.card import DataCard
from visage.files import Strict, read_typed
from visage.results import TEST, Results

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

LONGEST_DIGEST = 36
"""Characters of a dataset's digest that MLflow keeps."""
CARD = Path("data") / "processed" / "card.json"


@dataclass(frozen=True, slots=True)
class ImageData(Strict):
    """One set of images.

    digest: hex digest of the pixels, or of all that describes them. path: of its file, from the project's root.
    images: how many there are; None where that is not known.
    """

    name: str
    digest: str
    context: Literal["training", "testing", "ood"]
    path: str
    images: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Name and digest, as MLflow stores them."""
        return self.name, self.digest[:LONGEST_DIGEST]

    def entity(self) -> "DatasetInput":
        """What MLflow is told."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = None if self.images is None else json.dumps({"num_rows": self.images})
        dataset = Dataset(*self.key, source_type="local", source=json.dumps({"uri": self.path}), profile=profile)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.context)])


@dataclass(frozen=True, slots=True)
class Measured:
    """The sets of images that an evaluation measured on.

    test: held-out faces. others: name -> set of other images; headline: the one that stands for all.
    """

    test: ImageData
    others: dict[str, ImageData]
    headline: str

    def of(self, figure: str) -> ImageData:
        """The set behind a figure such as `eval/sets/svhn`; what was derived from test faces counts as test faces."""
        name = figure.removeprefix("eval/")
        if name.startswith(("ood_", "ood/")):
            return self.others.get(self.headline, self.test)
        return self.others.get(name.removeprefix("sets/"), self.test) if name.startswith("sets/") else self.test

    def all(self) -> list[ImageData]:
        """The test faces, then the others."""
        return [self.test, *self.others.values()]


def measured_sets(root: Path, results: Results, size: int) -> Measured | None:
    """What the data card says of the images that these results were measured on; None where it is not theirs.

    Raises:
        UserError: the card is damaged.
    """
    if not (root / CARD).is_file():
        return None
    card = read_typed(root / CARD, DataCard, "delete it and run `dvc repro` again")
    if card.data_hash.get(str(size)) != results.data_hash:
        return None
    hashes, folder = card.hashes[str(size)], f"data/processed/{size}"
    test = ImageData(f"{card.source}-{TEST}", hashes[TEST], "testing", f"{folder}/{TEST}.npy", card.counts[TEST])
    others = {
        one.name: ImageData(one.name, hashes[f"ood/{one.name}"], "ood", f"{folder}/ood/{one.name}.npy", one.count)
        for one in card.ood
    }
    return Measured(test, others, results.headline)
