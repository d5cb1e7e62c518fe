"""docs/slurm.sbatch on a real Slurm of one node, which this test starts on this machine for itself."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.clones import begin, clone, end
from tests.test_pipeline import change, origin, stages_run

NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)), reason="Slurm is not installed: on Debian `apt-get install slurm-wlm munge`"
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="slurmctld and slurmd run as root"),
]
CONF = """
ClusterName=visage
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
# cred_expire: seconds that a requeued job waits
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm():
    """A Slurm whose daemons end with the test. In a folder with a short name, because sockets have short paths."""
    folder = Path(f"/tmp/visage-slurm-{os.getpid()}")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), ports=free_ports(2), folder=folder))
    subprocess.run(["mungekey", "-c", "-k", folder / "key"], check=True)
    places = {"key-file": "key", "socket": "munge.socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder / name}" for option, name in places.items()]
    commands = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    daemons = []
    for command in commands:
        with (folder / f"{command[0]}.txt").open("wb") as log:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        time.sleep(1)
    os.environ["SLURM_CONF"] = str(conf)
    try:
        wait_until(lambda: "State=IDLE" in ask("scontrol", "show", "node"), 60)
        yield
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], check=False)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=60)
        del os.environ["SLURM_CONF"]
        shutil.rmtree(folder)


def ask(*command, cwd=None, **environment):
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.5)


def state(job):
    return next(word for word in ask("scontrol", "show", "job", job).split() if word.startswith("JobState="))[9:]


@pytest.fixture
def project(tmp_path):
    folder = clone(origin(tmp_path / "origin", "docs"), tmp_path / "project")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_an_array_of_runs_survives_a_requeue_and_then_dvc_has_only_the_report_to_run(slurm, project, tmp_path):
    change(project, {"recipes.beta_vae.demo.train.kimg": 16})  # not committed
    status, out, err = end(begin(project, "visage.pipeline.one", "--list"))
    assert status == 0, err
    names = out.split()
    clones = {"VISAGE_CLONES": str(tmp_path / "clones")}
    array = f"--array=0-{len(names) - 1}"
    job = ask("sbatch", "--parsable", array, "docs/slurm.sbatch", *names, cwd=project, **clones).strip()
    last = ask(
        *("sbatch", "--parsable", f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--output=repro.txt"),
        *("--wrap", "PATH=$PWD/.venv/bin:$PATH dvc repro"),
        cwd=project,
    ).strip()

    (index,) = [index for index, name in enumerate(names) if name.startswith("beta_vae")]
    log = project / ".scratch" / "logs" / f"train@{names[index]}.{socket.gethostname()}.log"
    wait_until(lambda: log.is_file() and "step/s" in log.read_text(errors="replace"), 120)
    ask("scontrol", "requeue", f"{job}_{index}")
    wait_until(lambda: f"{names[index]}: continuing at step" in log.read_text(errors="replace"), 180)
    assert "stopped by SIGTERM: what was done is kept" in (project / f"slurm-{job}_{index}.txt").read_text()

    wait_until(lambda: state(last) not in {"PENDING", "RUNNING"}, 300)
    assert [state(f"{job}_{index}") for index in range(len(names))] == ["COMPLETED"] * len(names)
    text = (project / "repro.txt").read_text()
    assert state(last) == "COMPLETED", text
    assert stages_run(text) == {"report"}
    assert (project / "report" / "index.html").is_file()
    assert len(list((tmp_path / "clones").glob("*/params.yaml"))) == 1


def test_changes_that_a_clone_cannot_have_are_refused(slurm, project, tmp_path):
    (project / "src" / "visage" / "new.py").touch()
    command = ["sbatch", "--wait", "--array=0", "--output=out.txt", "docs/slurm.sbatch", "vae-32-0"]
    environment = os.environ | {"VISAGE_CLONES": str(tmp_path / "clones")}
    assert subprocess.run(command, cwd=project, env=environment, timeout=120, check=False).returncode == 1
    text = (project / "out.txt").read_text()
    assert f"error: {project} differs from its last commit, not in params.yaml alone: commit, and submit again" in text
    assert not list((tmp_path / "clones").glob("*/params.yaml"))
