"""Kill the pipeline at random moments until it is done, and compare what it made with a run that nobody disturbed.

    python -m tests.kills                              100 kills over all families: about an hour on two cores
    python -m tests.kills --kills 5 --runs vae-16      a first look
    python -m tests.kills --targets "the process that logs" "a stage"      of these alone

Targets are drawn at random: a process of a stage, the runner, the process that logs, all of them at once (kill -9), or
the runner alone by SIGTERM. After each, the same command is given again. When it is through, every file below `data`,
`runs` and `metrics` but those that hold seconds must be what the undisturbed run wrote, byte for byte, and every run
must be one finished MLflow run whose curves have no point twice. Then the next project is begun, until there were
enough kills. Trainings save four times a second here, so that they are met before and after they have saved. Exits with
status 1 if anything differs.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.test_pipeline import SETTINGS, change, origin

RECIPES = (
    *("beta_vae", "vq_vae", "mae", "dcgan", "wgan_gp", "bigan", "conditional_gan", "cyclegan", "stylegan", "realnvp"),
    *("glow", "ddpm", "score_sde", "conditional_diffusion", "latent_diffusion"),
)
RUNS = [f"{recipe}-{32 if recipe == 'cyclegan' else 16}" for recipe in RECIPES]
"""A CycleGAN's discriminator wants 32 pixels."""
TARGETS = {"a stage": 5, "any process": 3, "the runner": 3, "the process that logs": 2, "everything": 2, "SIGTERM": 2}
"""What is killed, and how often in relation to the others."""
BETWEEN = 1.0, 9.0
"""Seconds from a start, or a kill that was survived, to the next kill."""
PATIENCE = 600
"""Seconds after which a command that was left alone counts as stuck."""
SAVES = ("EVERY_SECONDS = 20.0", "EVERY_SECONDS = 0.25"), ("COST = 50.0", "COST = 0.0")


def prepared(folder: Path, runs: list[str]) -> Path:
    """A project with tiny settings, whose trainings save all the time."""
    project = origin(folder / "visage")
    shutil.rmtree(folder / "visage" / "tests", ignore_errors=True)
    sizes = sorted({int(run.rpartition("-")[2]) for run in runs})
    settings = {
        "runs": runs,
        "preprocess.sizes": sizes,
        "train.batch_size": 8,
        "evaluate.network_calls": 100,
        "evaluate.least_images": 2,
    }
    for recipe in {run.rpartition("-")[0] for run in runs} | {"autoencoder"}:
        settings[f"recipes.{recipe}.demo.train"] = {"kimg": 0.8, "batch_size": 8}
    change(project, SETTINGS | settings)
    file = project / "src" / "visage" / "training" / "checkpoint.py"
    text = file.read_text()
    for before, after in SAVES:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text)
    return project


def start(project: Path) -> subprocess.Popen[bytes]:
    """Begin what `make repro` runs."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("VISAGE", "MLFLOW", "DVC"))}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(project / "src")}
    with (project / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "visage.pipeline"]
        return subprocess.Popen(command, cwd=project, env=variables, stdout=log, stderr=log, start_new_session=True)


def found(project: Path, words: str = "") -> list[psutil.Process]:
    """The processes of a project, whoever started them, whose command lines hold some words."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(project) and words in " ".join(process.cmdline()):
                processes.append(process)
    return processes


def kill(project: Path, runner: subprocess.Popen[bytes], target: str, draw: random.Random) -> bool:
    """Kill what the target names; whether there was such a thing."""
    if target == "SIGTERM":
        runner.terminate()
        return True
    if target == "the runner":
        victims = [psutil.Process(runner.pid)]
    elif target == "a stage":
        victims = found(project, "stages/")
    elif target == "the process that logs":
        victims = found(project, "visage.tracking.process")
    else:
        victims = found(project)
    if target != "everything" and victims:
        victims = [draw.choice(victims)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    return bool(victims)


def disturbed(project: Path, draw: random.Random, kills: int, targets: list[str]) -> Iterator[str]:
    """Run the pipeline to its end through so many kills of these targets at most; yields what was killed."""
    done = 0
    while True:
        runner = start(project)
        while done < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.wait(draw.uniform(*BETWEEN))
            if runner.returncode is not None:
                break
            (target,) = draw.choices(targets, [TARGETS[target] for target in targets])
            if kill(project, runner, target, draw):
                done += 1
                yield target
        if runner.wait(PATIENCE) == 0:
            return


def digests(project: Path) -> dict[str, str]:
    """File -> hash of its content, of all that must not depend on how the pipeline came to its end."""
    files = [file for name in ("data", "runs", "metrics") for file in (project / name).rglob("*") if file.is_file()]
    return {
        file.relative_to(project).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if "cost" not in file.relative_to(project).parts
    }


def mlflow_faults(project: Path, runs: list[str]) -> list[str]:
    """What is wrong in the store: runs that are missing, doubled or not finished, and points that are there twice."""
    deadline = time.monotonic() + 60
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        while True:
            states = store.execute("SELECT name, status FROM runs").fetchall()
            if all(status == "FINISHED" for _, status in states) or time.monotonic() > deadline:
                break
            time.sleep(1)
        doubled = store.execute(
            "SELECT key, step, COUNT(*) FROM metrics WHERE key LIKE 'train/%' OR key LIKE 'valid/%' "
            "GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
        ).fetchall()
    faults = [f"MLflow: {name} is {status}" for name, status in states if status != "FINISHED"]
    names = Counter(name for name, _ in states)
    faults += [f"MLflow: {names[f'{run}-0']} runs of {run}" for run in runs if names[f"{run}-0"] != 1]
    return faults + [f"MLflow: {key} has step {step} {count} times" for key, step, count in doubled]


def main() -> None:
    """Kill and compare, and print a table of what was tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--runs", nargs="*", default=RUNS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the targets")
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="what is killed; a name may be repeated"
    )
    parser.add_argument("--keep", action="store_true", help="keep the projects where something differs")
    asked = parser.parse_args()
    draw, tried, faults = random.Random(asked.seed), Counter[str](), list[str]()
    with workplace(asked.keep) as home:
        first = prepared(Path(home) / "undisturbed", asked.runs)
        assert start(first).wait() == 0, (first / "log.txt").read_text()[-3000:]
        expected = digests(first)
        print(f"undisturbed: {len(expected)} files", flush=True)
        while tried.total() < asked.kills:
            project = prepared(Path(home) / f"after-{tried.total()}", asked.runs)
            before = tried.total()
            for target in disturbed(project, draw, asked.kills - before, asked.targets):
                tried[target] += 1
                print(f"{tried.total():4} {target}", flush=True)
            seen = digests(project)
            names = sorted(expected.keys() | seen.keys())
            here = [f"{name} differs" for name in names if expected.get(name) != seen.get(name)]
            here += mlflow_faults(project, asked.runs)
            here += [f"left over: {path.name}" for path in project.rglob("*.tmp")]
            print(f"done after {tried.total() - before} kills; {len(here)} faults", *here, sep="\n  ", flush=True)
            faults += here
            if not asked.keep:
                shutil.rmtree(project.parent)
    print(f"{tried.total()} kills ({', '.join(f'{n} of {what}' for what, n in tried.items())}): {len(faults)} faults")
    sys.exit(bool(faults))


@contextlib.contextmanager
def workplace(keep: bool) -> Iterator[str]:
    """A temporary folder."""
    folder = tempfile.mkdtemp(prefix="kills-")
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
