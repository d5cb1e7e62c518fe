"""data/processed -> data/attribute_network: the networks in whose features samples are compared with faces."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.stage import run_stage


def main() -> None:
    from visage.attribute_network import make_attribute_networks
    from visage.config import AttributeNetworkConfig
    from visage.data.arrays import PROCESSED
    from visage.files import write_json
    from visage.metrics import FIGURES
    from visage.training.devices import start_device

    config, out = AttributeNetworkConfig.load(), Path("data/attribute_network")
    figures = make_attribute_networks(config, PROCESSED, out, start_device())
    write_json(out / FIGURES, figures)


if __name__ == "__main__":
    run_stage(main, fork="training", cost=Path("data/cost/attribute_network.json"))
