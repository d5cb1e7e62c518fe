"""`python -m visage.pipeline.ray`: every run that is out of date as a task of a Ray cluster, then DVC's last word.

Ray chooses the node; there `visage.pipeline.one` does the work in the node's clone of the project. What Ray sends to
the nodes (`problem`, `problem_before`, `work`) names nothing of this package, so that a node without it, or with
another one, can say so.
"""

import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visage.config import CONFIGS, RuntimeConfig
from visage.errors import UserError
from visage.pipeline import dvc
from visage.pipeline.clone import digest
from visage.pipeline.display import clock
from visage.pipeline.one import use_this_python
from visage.pipeline.task import StoppedError, Task

RETRIES = 3
"""When a node or a worker dies. The error of a stage is an answer, which is not asked for again."""
FIRST_HERE = {"configure", "report"}
"""The stages that no node runs for this clone."""


def problem(clone: str, expected: str) -> str:
    """On a node: why its clone cannot be used, with the fix; empty where it can.

    clone: where it is, unless the node's VISAGE_CLONE names another folder. expected: the digest of the driver's.
    """
    root = Path(os.environ.get("VISAGE_CLONE", clone))
    if not (root / "src" / "visage").is_dir():
        return f"{root} is no clone of this project: clone it there, or set VISAGE_CLONE before `ray start`"
    command = [sys.executable, "-m", "visage.pipeline.one", "--digest"]
    environment = os.environ | {"PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return (
            f"{root}: {(done.stderr.splitlines() or ['it said nothing'])[-1]}: install its environment, or `git pull`"
        )
    if done.stdout.strip() != expected:
        return f"{root} has other code or parameters than the driver: commit and push there, then `git pull` here"
    return ""


def problem_before(clone: str, expected: str, token: str) -> str:
    """On a node, before it does anything: as `problem`, and whether what it makes will reach the driver.

    token: the name of a file that the driver has put into its cache; empty where the driver has a default remote.
    """
    if found := problem(clone, expected):
        return found
    root = Path(os.environ.get("VISAGE_CLONE", clone))
    asked = ("cache", "dir") if token else ("config", "core.remote")
    command = [sys.executable, "-m", "dvc", *asked]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    if token and not (root / said / token).is_file():
        return f"{root} keeps what it makes in {said}, which is not the driver's cache: share one, or add a remote"
    if not said:
        return f"{root} has no default remote, and the driver has: `dvc remote add --local -d ...` there, too"
    return ""


def work(clone: str, expected: str, name: str) -> Iterator[str]:
    """On a node: do one run in its clone. Yields the node's name when it begins; in the end why it failed, or nothing.

    clone, expected: as of `problem`.
    """
    # Ray cancels a task by SIGINT, which is ignored where `ray start` ran in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield platform.node()
    if found := problem(clone, expected):
        yield found
        return
    root = Path(os.environ.get("VISAGE_CLONE", clone))
    log = root / ".scratch" / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "visage.pipeline.one", name],
            cwd=root,
            env=os.environ | {"PYTHONPATH": "src"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:  # Ray cancels between two lines of Python, not inside of `wait`
                time.sleep(0.2)
        finally:
            if process.returncode is None:
                process.terminate()  # the training saves a checkpoint
                process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    yield lines[-1].removeprefix("error: ") if process.returncode else ""


@dataclass
class Run:
    """A run that Ray has been given. node: the one that does it, once it has begun."""

    name: str
    node: str = ""
    since: float = field(default_factory=time.monotonic)


class Driver:
    """Hands the runs to Ray, and tells what becomes of them.

    Raises:
        UserError: DVC cannot read the project.
    """

    def __init__(self, root: Path, ray: Any) -> None:
        self.root, self.ray = root, ray
        self.here = Task(root)
        self.digest = digest(root)
        self.failed: dict[str, str] = {}

    def run(self) -> int:
        """Do all that is out of date; returns the exit status.

        Raises:
            UserError: there is no cluster, a node's clone is another one, or a stage fails in this clone.
            StoppedError: by a signal.
        """
        names = self.here.names_out_of_date()
        print(f"{len(names)} runs to do", flush=True)
        if names:
            self._connect()
            self._check_nodes()
            self._collect({self._start(name): Run(name) for name in names})
        if self.failed:
            for name, error in self.failed.items():
                print(f"error: {name}: {error}", file=sys.stderr)
            print("the other results are kept; run the same command again to continue", file=sys.stderr)
            return 1
        self._last_word()
        return 0

    def _connect(self) -> None:
        address = os.environ.get("RAY_ADDRESS") or "auto"
        try:
            if address != "auto":  # where nobody answers, Ray would end this process, after a minute
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            self.ray.init(address=address, log_to_driver=False, logging_level="error")
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Ray cluster answers at {address}: `ray start --head` on one machine, and on the others "
                "`ray start --address=<it>:6379`; where several run, RAY_ADDRESS names one"
            ) from error
        self.here.listen()  # Ray has put its own answer to SIGTERM in the place of ours
        self.needs = self._needs()

    def _needs(self) -> dict[str, float]:
        """What a task takes of a node: `runtime.devices` GPUs where there are some, else a core for each thread."""
        runtime = RuntimeConfig.load(self.root / CONFIGS)
        if self.ray.cluster_resources().get("GPU") and runtime.device != "cpu":
            return {"num_gpus": runtime.devices}
        return {"num_cpus": max(1, runtime.threads)}

    def _check_nodes(self) -> None:
        """Refuse nodes that would do something else, before any of them does anything."""
        kind = "GPU" if "num_gpus" in self.needs else "CPU"
        nodes = [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
        if not nodes:
            raise UserError(f"no node of the Ray cluster has a {kind}: start one that has")
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        check = self.ray.remote(problem_before)
        with self._token() as token:
            answers = [
                check.options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote(str(self.root), self.digest, token)
                for node in nodes
            ]
            problems = self.ray.get(answers)
        found = [
            f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {said}"
            for node, said in zip(nodes, problems, strict=True)
            if said
        ]
        if found:
            raise UserError("; ".join(found))
        print(f"{len(nodes)} nodes with the same code and parameters", flush=True)

    @contextmanager
    def _token(self) -> Iterator[str]:
        """For `problem_before`, while the block runs."""
        if self.here.pull:
            yield ""
            return
        cache = self.root / dvc.cache_folder(self.root)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix="driver-") as token:
            yield Path(token.name).name

    def _start(self, name: str) -> Any:
        """Give Ray one run; what it answers with is a stream of what `work` yields."""
        task = self.ray.remote(work).options(
            **self.needs, max_retries=RETRIES, scheduling_strategy="SPREAD", num_returns="streaming", name=name
        )
        return task.remote(str(self.root), self.digest, name)

    def _collect(self, runs: dict[Any, Run]) -> None:
        """Tell what begins and what ends, until all have; on a signal, cancel them and let them save."""
        total = len(runs)
        while runs:
            if self.here.signals:
                self._cancel(runs)
                raise StoppedError(self.here.signals[0])
            ready, _ = self.ray.wait(list(runs), num_returns=1, timeout=0.5)
            for task in ready:
                run = runs[task]
                try:
                    said = self.ray.get(next(task))
                except StopIteration:
                    del runs[task]
                    continue
                except self.ray.exceptions.RayError as error:
                    said = str(error).splitlines()[0]
                if not run.node:
                    run.node, run.since = said, time.monotonic()
                    print(f"{run.name}: runs on {run.node}", flush=True)
                    continue
                ended = f"[{total - len(runs) + 1}/{total}] {run.name}"
                took = clock(time.monotonic() - run.since)
                if said:
                    self.failed[run.name] = said
                print(f"{ended}: FAILED after {took}: {said}" if said else f"{ended}: {took}", flush=True)

    def _cancel(self, runs: dict[Any, Run]) -> None:
        print("stopping: the trainings save their checkpoints", file=sys.stderr, flush=True)
        for task in runs:
            self.ray.cancel(task, force=False)
        for task in runs:
            self.ray.wait([task.completed()], timeout=60)

    def _last_word(self) -> None:
        """A `dvc repro` here, which takes all that the nodes did from the cache and has the report left to run."""
        text = self.here.command("repro", "repro", *self.here.pull)
        for stage in dvc.stages_that_ran(text):
            if stage not in FIRST_HERE:
                print(
                    f"{stage} ran again in this clone: what a node did has not reached it; do the clones share a cache "
                    "or a remote? docs/scaling.md says how",
                    file=sys.stderr,
                )


def main() -> int:
    """Do all that is out of date in the clone that is the working directory; returns the exit status.

    Raises:
        UserError: Ray is missing, or as of `Driver.run`.
        StoppedError: by a signal.
    """
    # started by `uv run`, it would have each node run a copy of this clone, in an environment made anew
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: `uv sync --extra ray`") from error
    use_this_python()
    return Driver(Path.cwd(), ray).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.number)
