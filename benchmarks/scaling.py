"""Stages side by side: what the pipeline loses beside others, and what it pays for each stage.

    python benchmarks/scaling.py workers        # stages that sleep, 4 and 8 at once
    python benchmarks/scaling.py overhead       # a training and an evaluation that do next to nothing
    python benchmarks/scaling.py neighbour      # four runs, alone and beside a process that burns a core
    python benchmarks/scaling.py experiments    # two `dvc exp run`, one after the other and at once

Everything happens in temporary clones of the last commit. The figures are ratios of times measured in turns; nothing
else should run meanwhile.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from visage.fork_server import ForkServer
from visage.pipeline.jobs import PROCESSES, be_dvc

ROOT = Path(__file__).parents[1]
SHORT = {"vae": 12.8, "dcgan": 20.0, "realnvp": 4.0, "mae": 8.0}
"""Recipe -> thousands of images shown, a third of what params.yaml says: ratios of times need no more."""
SLEEPING = {"train": (20, 60), "evaluate": (8, 16)}
"""Kind of stage -> the seconds that its shortest and its longest stage sleep."""


def call(folder: Path, *command: str) -> float:
    """Run a command in a folder; return the seconds that it took."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - started


def repro(folder: Path, jobs: int = 0) -> float:
    """Run the pipeline of a folder; return the seconds that it took."""
    return call(folder, sys.executable, "-m", "visage.pipeline", "--jobs", str(jobs))


@contextmanager
def clone(settings: Mapping[str, Any]) -> Iterator[Path]:
    """A clone of the project with other settings (dotted key -> value), committed, without results."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "visage"
        call(ROOT, "git", "clone", "-q", str(ROOT), str(folder))
        call(folder, "git", "rm", "-q", "-r", "--cached", "dvc.lock", "configs", "metrics")
        (folder / "dvc.lock").unlink()
        yaml = YAML()
        params = yaml.load(folder / "params.yaml")
        for dotted, value in settings.items():
            *path, last = dotted.split(".")
            section = params
            for key in path:
                section = section[key]
            section[last] = value
        yaml.dump(params, folder / "params.yaml")
        call(folder, "git", "-c", "user.name=benchmark", "-c", "user.email=b@example.org", "commit", "-qam", "settings")
        yield folder


def sleeping_project(folder: Path, runs: int, share: float = 1) -> tuple[float, float]:
    """A DVC project like ours, whose stages sleep; return the seconds of all together, and of the longest chain.

    How long each one takes is known from metrics/cost, as it is in a clone of ours.

    share: of the seconds in SLEEPING.
    """
    stages: dict[str, Any] = {
        "data": {"cmd": "sleep 1; date > data", "outs": ["data"]},
        "report": {"cmd": "date > report", "deps": [f"evaluate-{i}" for i in range(runs)], "outs": ["report"]},
    }
    sums = dict.fromkeys(range(runs), 0.0)
    for kind, needs in (("train", "data"), ("evaluate", "train-${key}")):
        shortest, longest = (share * seconds for seconds in SLEEPING[kind])
        seconds = {i: round(shortest + (longest - shortest) * i / (runs - 1), 1) for i in range(runs)}
        for i, each in seconds.items():
            sums[i] += each
            cost = folder / "metrics" / "cost" / kind / f"{i}.json"
            cost.parent.mkdir(parents=True, exist_ok=True)
            cost.write_text(json.dumps({"seconds": each}))
        stages[kind] = {
            "foreach": seconds,
            "do": {"cmd": f"sleep ${{item}}; date > {kind}-${{key}}", "deps": [needs], "outs": [f"{kind}-${{key}}"]},
        }
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    call(folder, "dvc", "init", "--no-scm", "--quiet")
    return sum(sums.values()), max(sums.values())


def workers() -> None:
    """How near the runner comes to the shortest possible time, where stages take no processor."""
    for jobs in (4, 8):
        with tempfile.TemporaryDirectory() as temporary:
            together, longest = sleeping_project(Path(temporary), 22)
            took = repro(Path(temporary), jobs)
            best = max(together / jobs, longest)
            print(f"{jobs} at once: {took:.0f} s; not below {best:.0f} s; {best / took:.2f}", flush=True)


def overhead() -> None:
    """The processor's seconds around a training of one step and a small evaluation, by DVC and by the runner."""
    settings = {
        "runs": ["vae-32"],
        "data.synthetic.images": 400,
        "recipes.vae.demo.train": {"kimg": 0.064},
        "train.snapshots": 1,
        "evaluate.images": 16,
        "evaluate.ood_images": 16,
        "evaluate.bootstrap": 100,
        "evaluate.derived_images": 4,
        "evaluate.quality_samples": 8,
        "attribute_network.kimg": 0.2,
    }
    with clone(settings) as folder:
        repro(folder)
        nothing = cpu_seconds(lambda: call(folder, "dvc", "repro"))
        print(f"dvc repro with nothing to do: {nothing:.1f} CPU seconds", flush=True)
        stages = ("train@vae-32-0", "evaluate@vae-32-0")
        for stage in stages:
            print(f"{stage} by dvc repro: {several(partial(call, folder, 'dvc', *forced(stage)))}", flush=True)
        with serving():
            for stage in stages:
                forked(folder, stage)  # the servers' own imports
            for stage in stages:
                print(f"{stage} by make repro: {several(partial(forked, folder, stage))}", flush=True)


def forced(stage: str) -> tuple[str, ...]:
    """What DVC is asked, that it runs a stage which is up to date."""
    return ("repro", "--force", "--single-item", stage)


def forked(folder: Path, stage: str) -> None:
    """Run a stage as the runner does."""
    log = folder / "log.txt"
    process = PROCESSES.Process(target=be_dvc, args=(folder, log, *forced(stage)))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(log.read_text())


def several(do: Callable[[], object]) -> str:
    """The processor's seconds of something that is done three times, in words."""
    found = [cpu_seconds(do) for _ in range(3)]
    return f"{min(found):.1f} CPU seconds (of {', '.join(f'{x:.1f}' for x in found)})"


def cpu_seconds(do: Callable[[], object]) -> float:
    """The seconds that all processes of the machine compute while something is done; nothing else may run."""
    before = psutil.cpu_times()
    do()
    after = psutil.cpu_times()
    return sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system"))


@contextmanager
def serving() -> Iterator[None]:
    """A fork server for the stages that are started meanwhile, as the runner has one."""
    server, ended = ForkServer(), threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            server.start_if_asked()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        server.close()


def neighbour() -> None:
    """How much longer four runs take where another process burns a core."""
    settings = {"runs": [f"{recipe}-32" for recipe in SHORT]}
    settings |= {f"recipes.{recipe}.demo.train.kimg": kimg for recipe, kimg in SHORT.items()}
    with clone(settings) as folder:
        alone = repro(folder)
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with clone(settings) as folder:
            beside = repro(folder)
    finally:
        burner.kill()
    print(f"alone {alone:.0f} s, beside a process that burns a core {beside:.0f} s: {beside / alone:.2f} times as long")


def experiments() -> None:
    """Two experiments of one run each, one after the other and at once."""
    took = {}
    with clone({"runs": ["beta_vae-32"], "recipes.beta_vae.demo.train.kimg": SHORT["vae"]}) as folder:
        call(folder, "dvc", "repro", "reference")
        for jobs, betas in ((1, (1.2, 2.4)), (2, (1.3, 2.5))):
            for beta in betas:
                call(folder, "dvc", "exp", "run", "--queue", "-S", f"model.beta={beta}")
            started = time.monotonic()
            call(folder, "dvc", "queue", "start", "-j", str(jobs))
            while (status := queue_status(folder)).count("Success") < 2 * jobs:
                if "Failed" in status:
                    sys.exit(status)
                time.sleep(5)
            took[jobs] = time.monotonic() - started
    print(f"one after the other {took[1]:.0f} s, at once {took[2]:.0f} s: {took[2] / took[1]:.2f}")


def queue_status(folder: Path) -> str:
    """What DVC says of the experiments in its queue."""
    command = [sys.executable, "-m", "dvc", "queue", "status"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    kinds = {kind.__name__: kind for kind in (workers, overhead, neighbour, experiments)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=kinds)
    kinds[parser.parse_args().what]()
