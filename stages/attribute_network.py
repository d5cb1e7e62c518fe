"""configs/attribute_network.json and data/processed -> data/attribute_network: the networks that judge samples."""

import os
from pathlib import Path

import torch

from visage.attribute_network import make_attribute_networks
from visage.config import AttributeNetworkConfig, RuntimeConfig
from visage.data.arrays import PROCESSED
from visage.files import write_json
from visage.stage import run_stage
from visage.training.devices import choose_device


def main() -> None:
    runtime = RuntimeConfig.load()
    torch.set_num_threads(runtime.threads or os.cpu_count() or 1)
    config, out = AttributeNetworkConfig.load(), Path("data/attribute_network")
    figures = make_attribute_networks(config, PROCESSED, out, choose_device(runtime.device))
    write_json(Path("metrics/attribute_network.json"), figures)


if __name__ == "__main__":
    run_stage(main)
