"""data/processed -> data/attribute_network: the networks in whose features samples are compared with faces."""

from pathlib import Path

from visage.attribute_network import make_attribute_networks
from visage.config import AttributeNetworkConfig
from visage.data.arrays import PROCESSED
from visage.files import write_json
from visage.stage import run_stage
from visage.training.devices import start_device


def main() -> None:
    config, out = AttributeNetworkConfig.load(), Path("data/attribute_network")
    write_json(Path("metrics/attribute_network.json"), make_attribute_networks(config, PROCESSED, out, start_device()))


if __name__ == "__main__":
    run_stage(main)
