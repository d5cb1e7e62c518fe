"""What the default run is and what it found: its configs, its models, and the figures of it that are committed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visage import params
from visage.config import RunConfig
from visage.files import read_json
from visage.models import base
from visage.results import TrainingCost, read
from visage.training.outputs import build_model


@dataclass(frozen=True, slots=True)
class Baseline:
    """The runs of params.yaml with the first seed, in its order.

    models: run -> the model, with untrained weights.
    full: run -> the config that it would have at `scale: full`.
    """

    root: Path
    configs: tuple[RunConfig, ...]
    models: dict[str, base.GenerativeModel]
    full: dict[str, RunConfig]

    @classmethod
    def load(cls, root: Path) -> "Baseline":
        """Read the params.yaml of a project."""
        shipped = params.load(root / "params.yaml")
        first = shipped.model_copy(update={"seeds": shipped.seeds[:1]})
        configs = params.resolve(first, root / "src")
        full = params.resolve(first.model_copy(update={"scale": "full"}), root / "src")
        models = {config.name: build_model(config) for config in configs}
        return cls(root, tuple(configs), models, {config.name: config for config in full})

    def of_size(self, size: int) -> list[RunConfig]:
        """The runs whose images have this size."""
        return [config for config in self.configs if config.size == size]

    def of_model(self, model: str) -> list[RunConfig]:
        """The runs that train the model of this file."""
        return [config for config in self.configs if config.model == model]

    def figures(self, name: str) -> dict[str, Any]:
        """The committed figures of a run or a stage, by their keys in the table of measures; none if it has not run."""
        path = self.root / "metrics" / f"{name}.json"
        return {key.removeprefix("ood_"): value for key, value in read_json(path).items()} if path.is_file() else {}

    def cost(self, name: str) -> TrainingCost | None:
        """What the committed training of a run took, if there is one."""
        path = self.root / "metrics" / "cost" / "train" / f"{name}.json"
        return read(path, TrainingCost) if path.is_file() else None

    def parameters(self, name: str) -> int:
        """How many numbers a run trains."""
        players = self.models[name].players()
        return sum(p.numel() for modules in players.values() for m in modules for p in m.parameters())
