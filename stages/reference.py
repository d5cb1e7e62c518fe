"""data/processed and data/attribute_network -> data/reference: what evaluations need and no model influences."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.stage import run_stage


def main() -> None:
    from visage.config import EvaluateConfig, ReferenceConfig
    from visage.files import write_json
    from visage.metrics import FIGURES
    from visage.reference.build import build_reference
    from visage.training.devices import start_device

    config, data = ReferenceConfig.load(), Path("data")
    figures = build_reference(config, EvaluateConfig.load(), data, data / "reference", start_device())
    write_json(data / "reference" / FIGURES, figures)


if __name__ == "__main__":
    run_stage(main, fork="evaluation", cost=Path("data/cost/reference.json"))
