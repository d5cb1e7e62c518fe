"""params.yaml -> configs/: check every parameter, then write exactly what each stage and run will use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.config import CONFIGS, RuntimeConfig
from visage.files import replacing_folder
from visage.params import load, resolve, write_configs
from visage.stage import run_stage
from visage.training.devices import choose_device
from visage.training.processes import refuse_devices


def main() -> None:
    params = load(Path("params.yaml"))
    runs = resolve(params, source=Path("src"))
    with replacing_folder(CONFIGS) as folder:
        write_configs(params, runs, folder, root=Path())
        runtime = RuntimeConfig.load(folder)
        refuse_devices(runtime.devices, choose_device(runtime.device))  # before hours of work, not after
    print(f"{len(runs)} runs at scale {params.scale}: {', '.join(run.name for run in runs)}")


if __name__ == "__main__":
    run_stage(main)
