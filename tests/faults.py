"""Run the pipeline where a machine refuses something, take that away, run again, and compare with a run without faults.

    python -m tests.faults             every fault: about twenty minutes on two cores; as root, who can mount
    python -m tests.faults readonly    one

The faults: a file system that is full (a tmpfs of several sizes), one that is read-only, few open files, little memory,
two runners at once, two experiments at once. Each time the first attempt must say in one line what is wrong and what
helps, with no traceback of ours; when the fault is gone the same command must end well, and every file below `data`,
`runs` and `metrics` but those that hold seconds must be what a run without faults wrote, byte for byte.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kills import digests, mlflow_faults, prepared, start

RUNS = ["vae-16", "latent_diffusion-16"]
ROOMS = (1, 8, 12, 24, 32, 48, 56, 64, 72, 80)
"""Mebibytes of room beside the project, from what holds no images to what holds all but the last outputs."""


class Faults:
    """What each attempt found, by the name of its fault."""

    def __init__(self, expected: dict[str, str]) -> None:
        self.expected = expected
        self.found: list[str] = []

    def refused(self, fault: str, status: int, said: str) -> None:
        """Note an attempt that should have been refused in one line."""
        errors = [line for line in said.splitlines() if "error: " in line.lower() or "FAILED" in line]
        print(f"{fault}: status {status}", *errors[:3], sep="\n    ", flush=True)
        if status and not errors:
            self.found.append(f"{fault}: no word about what is wrong")
        if "Traceback (most recent call last)" in said:
            self.found.append(f"{fault}: a traceback")

    def whole(self, fault: str, project: Path) -> None:
        """Compare what a project holds, when the fault is gone, with what it should."""
        seen = digests(project)
        names = sorted(self.expected.keys() | seen.keys())
        found = [f"{name} differs" for name in names if self.expected.get(name) != seen.get(name)]
        found += mlflow_faults(project, RUNS)
        print(f"{fault}: then whole, {len(found)} faults", *found, sep="\n    ", flush=True)
        self.found += [f"{fault}: {what}" for what in found]


def attempt(project: Path) -> tuple[int, str]:
    """Run the pipeline once; its status, and what it and its stages said."""
    log = project / "log.txt"
    log.unlink(missing_ok=True)
    status = start(project).wait()
    logs = [log, *(project / ".scratch" / "logs").glob("*.log")]
    return status, "\n".join(path.read_text(errors="replace") for path in logs if path.is_file())


def full_disk(faults: Faults, home: Path) -> None:
    """Give the project a file system of its own that is too small, again and again a little larger."""
    place = home / "small"
    with mounted(place, "size=512m"):
        project = prepared(place / "full", RUNS)
        used = sum(path.stat().st_blocks for path in project.rglob("*")) // 2048 + 1
        for room in ROOMS:
            remount(place, f"size={used + room}m")
            faults.refused(f"{room} MiB of room", *attempt(project))
        remount(place, "size=2g")
        status, said = attempt(project)
        assert status == 0, said[-3000:]
        faults.whole("full disk", project)


def readonly(faults: Faults, home: Path) -> None:
    """Make the file system read-only after a first attempt, of which one result is lost."""
    place = home / "readonly"
    with mounted(place, "size=2g"):
        project = prepared(place / "project", RUNS)
        assert attempt(project)[0] == 0
        shutil.rmtree(project / "runs" / "vae-16-0" / "evaluate")
        remount(place, "ro")
        variables = environment(project)
        for stage in ("download", "preprocess", "train", "evaluate"):
            name = ["vae-16-0"] if stage in ("train", "evaluate") else []
            command = [sys.executable, str(project / "stages" / f"{stage}.py"), *name]
            done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
            faults.refused(f"read-only, {stage}", done.returncode or 0, done.stderr)
            if done.returncode == 0:
                faults.found.append(f"read-only: {stage} says that all is well")
        remount(place, "rw")
        assert attempt(project)[0] == 0
        faults.whole("read-only", project)


def few_files(faults: Faults, home: Path) -> None:
    """Run with 64 open files for each process."""
    limited(faults, home, "64 open files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))


def little_memory(faults: Faults, home: Path) -> None:
    """Run with 1 GiB of address space for each process, which is less than PyTorch takes with its libraries."""
    limited(faults, home, "1 GiB", lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)))


def limited(faults: Faults, home: Path, name: str, limit: Callable[[], None]) -> None:
    project = prepared(home / name.replace(" ", "-"), RUNS)
    command = [sys.executable, "-m", "visage.pipeline"]
    done = subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, preexec_fn=limit, check=False
    )
    logs = "\n".join(path.read_text(errors="replace") for path in (project / ".scratch" / "logs").glob("*.log"))
    faults.refused(name, done.returncode, done.stdout + done.stderr + logs)
    status, said = attempt(project)
    assert status == 0, said[-3000:]
    faults.whole(name, project)


def two_runners(faults: Faults, home: Path) -> None:
    """Begin the pipeline twice in one folder."""
    project = prepared(home / "twice", RUNS)
    both = [start(project), start(project)]
    statuses = [runner.wait() for runner in both]
    faults.refused("two runners", max(statuses), (project / "log.txt").read_text())
    status, said = attempt(project)
    assert status == 0, said[-3000:]
    faults.whole("two runners", project)


def two_experiments(faults: Faults, home: Path) -> None:
    """Begin two experiments of DVC in one folder, then the pipeline as it was."""
    project = prepared(home / "experiments", RUNS)
    assert attempt(project)[0] == 0
    before = (project / "params.yaml").read_text()
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    subprocess.run(["git", "commit", "-qm", "done"], cwd=project, check=True)
    command = [sys.executable, "-m", "dvc", "exp", "run"]
    both = [
        subprocess.Popen(
            [*command, "-S", f"recipes.vae.model.beta={beta}"],
            cwd=project,
            env=environment(project),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for beta in (2, 3)
    ]
    for one in both:
        said = one.communicate()[0]
        faults.refused("two experiments", one.returncode, said)
    (project / "params.yaml").write_text(before)
    status, said = attempt(project)
    assert status == 0, said[-3000:]
    faults.whole("two experiments", project)


def environment(project: Path) -> dict[str, str]:
    """The variables of a process in the project."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("VISAGE", "MLFLOW", "DVC"))}
    return variables | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
    }


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A tmpfs at a place."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def remount(place: Path, options: str) -> None:
    """Change the options of a tmpfs, when nobody writes to it any more."""
    deadline = time.monotonic() + 90
    while subprocess.run(["mount", "-o", f"remount,{options}", str(place)], stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, f"{place} cannot become {options}"
        time.sleep(1)


FAULTS = {
    function.__name__: function
    for function in (full_disk, readonly, few_files, little_memory, two_runners, two_experiments)
}


def main() -> None:
    """Try all faults, or those that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}")
    names = parser.parse_args().faults or list(FAULTS)
    if unknown := set(names) - set(FAULTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as home:
        first = prepared(Path(home) / "undisturbed", RUNS)
        status, said = attempt(first)
        assert status == 0, said[-3000:]
        faults = Faults(digests(first))
        for name in names:
            FAULTS[name](faults, Path(home))
    print(f"{len(names)} faults tried; {len(faults.found)} things are wrong", *faults.found, sep="\n  ")
    sys.exit(bool(faults.found))


if __name__ == "__main__":
    main()
