"""What `test_ranks.py` starts: trainings by this process alone, and by two ranks, of which this one is the first.

It ends by a SIGKILL to the first rank.
"""

import contextlib
import copy
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tests.models.test_conformance import CPU, training_of
from tests.small_runs import CARD, LATENT_DIFFUSION, WHERE, faces
from visage.config import RunConfig
from visage.maths.ranks import here
from visage.train_run import train_run
from visage.training import ranks
from visage.training.loop import Training
from visage.training.processes import STARTED, together

STEPS = 3
ITERATE = Training.iterate


# --- A run from end to end, with a first stage


def run(folder):
    train_run(LATENT_DIFFUSION, CARD, *WHERE, faces(64, 1), faces(20, 2), folder)


def run_until(folder, model, step, number, index):
    """The same, in which one rank receives a signal after a step of one stage; return how it ended on this rank."""

    def iterate(self):
        ITERATE(self)
        if here().index == index and type(self.model).__module__.endswith(f".{model}") and self.step == step:
            os.kill(os.getpid(), number)

    Training.iterate = iterate
    try:
        run(folder)
    except (KeyboardInterrupt, SystemExit) as error:
        return repr(error)
    finally:
        Training.iterate = ITERATE


# --- Every recipe, in float64, also where a model asks for float32: rounding then stays below 1e-9, and whatever else
# ranks do differently stands out. In float32 the rounding of a CycleGAN grows to a percent within four steps.


@contextlib.contextmanager
def float64():
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    yield
    torch.Tensor.float = single
    torch.set_default_dtype(torch.float32)


def begun(config, images):
    step = images.shape[1] // config.size
    return training_of(config, images[:, ::step, ::step], STEPS, batch_size=8)


def results(training):
    """The weights and their average, and the row of the last step."""
    averaged = {f"ema.{name}": weight for name, weight in training.ema.model.state_dict().items()}
    return training.model.state_dict() | averaged, training.row()


def trained(config, images, *, resume):
    """The results of a training; resume: and those of another one that is given its state before the last step."""
    training = begun(config, images)
    for _ in range(STEPS - 1):
        training.iterate()
    state = copy.deepcopy(training.state_dict())
    training.iterate()
    if not resume:
        return results(training)
    torch.manual_seed(999)  # a new process has another random state
    other = begun(config, images)
    other.load_state_dict(state)
    other.iterate()
    return {"whole": results(training), "resumed": results(other)}


def main(folder):
    """Train what `folder` holds; each rank writes what it has found, and the second which process it is."""
    torch.set_num_threads(1)
    images = np.load(folder / "images.npy")
    configs = [RunConfig.load(path.stem, folder) for path in sorted(folder.glob("*.json"))]
    if STARTED not in os.environ:
        run(folder / "run_alone")
        with float64():
            alone = {config.recipe: trained(config, images, resume=False) for config in configs}
        torch.save(alone, folder / "alone.pt")
    with together(2, CPU):
        run(folder / "run_whole")
        ends = [
            run_until(folder / "run_cut", "autoencoder", 7, signal.SIGINT, index=0),
            run_until(folder / "run_cut", "latent_diffusion", 5, signal.SIGTERM, index=1),
        ]
        run(folder / "run_cut")
        with float64():
            found = {config.recipe: trained(config, images, resume=True) for config in configs}
        torch.save({"ends": ends, **found}, folder / f"rank_{here().index}.pt")
        (folder / f"process_{here().index}").write_text(str(os.getpid()))
        ranks.highest(0)
        if here().first:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
