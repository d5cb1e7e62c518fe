"""The one loop. It asks a model for its players and phases and never asks which model it is."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from visage.config import TrainConfig
from visage.errors import UserError
from visage.maths.ranks import here, sharing
from visage.maths.streams import torch_generator
from visage.models.base import Batch, GenerativeModel, Phase, Step
from visage.training import ranks
from visage.training.batch_norm import share_batch_norms
from visage.training.checkpoint import Checkpoint
from visage.training.devices import DTYPES, random_states, set_random_states
from visage.training.ema import Ema
from visage.training.feed import Feed
from visage.training.interruption import listening
from visage.training.plan import is_due, learning_rate, moments, total_steps


class Observer(Protocol):
    """Receives what happens during a training; nothing that it does changes the training."""

    def row(self, values: dict[str, float]) -> None:
        """A row of the history: step, kimg, lr, `<phase>/<term>`, `<phase>/grad_norm`."""

    def validated(self, values: dict[str, float]) -> None:
        """A validation: step, kimg, bits_per_dim."""

    def sampled(self, step: int, images: NDArray[np.uint8]) -> None:
        """Images (N, S, S, 3) drawn from the averaged weights, at every moment from the same noise."""


class Training:
    """A model in training: everything that the next step depends on, and the step.

    Two objects with equal `state_dict`s go on identically: bit for bit on a CPU with the same number of threads, and on
    a CUDA device that `start_device` has set to be deterministic.

    Several ranks (`visage.maths.ranks`) that call the same methods in the same order train as one process does, up to
    the rounding of sums, and hold the same weights, bit for bit. Only dropout differs: PyTorch draws it from its global
    generator, which is seeded anew with the step and the rank, so that ranks drop different units, and a training that
    is continued by as many ranks drops the same ones.
    """

    def __init__(self, model: GenerativeModel, config: TrainConfig, feed: Feed, *, seed: int) -> None:
        self.model, self.config, self.feed, self.seed = model, config, feed, seed
        self.device = feed.device
        self.rank = here()
        if self.rank.count > 1:
            share_batch_norms(model)
        self.phases = list(model.phases())
        self.steps = total_steps(config, self.phases)
        self.parameters = {
            player: [p for module in modules for p in module.parameters()]
            for player, modules in model.players().items()
        }
        self.optimizers = {player: _optimizer(p, config, self.device) for player, p in self.parameters.items()}
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.step = 0
        self.images_shown = 0
        self.terms: dict[str, Tensor] = {}
        self.first_bad = torch.full((), -1, device=self.device)
        model.train().initialize(feed.first(model.initial_images))
        if self.rank.count > 1:
            ranks.start_equal([*model.parameters(), *model.buffers()])
        self.ema = Ema(model, config.ema_decay)

    def iterate(self) -> None:
        """One iteration: every phase that is due, in order; then the moving average."""
        if self.rank.count > 1:
            torch.manual_seed(torch_generator(self.seed, f"dropout {self.step} {self.rank.index}").initial_seed())
        for phase in self.phases:
            if is_due(phase, self.step, self.steps):
                if phase.fresh:
                    batch = self.feed.next()
                    self.images_shown += len(batch.x) * self.rank.count
                self._minimise(phase, batch)
        self.ema.update(self.model, self.step)
        self.step += 1

    def _minimise(self, phase: Phase, batch: Batch) -> None:
        parameters, optimizer = self.parameters[phase.player], self.optimizers[phase.player]
        shared = learning_rate(self.config, self.step, self.steps)
        lr = learning_rate(self.config, self.step, self.steps, phase.span) * self.config.lr_factors.get(
            phase.player, 1.0
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        moment = Step(self.step, self.steps, self.generator)
        precision = DTYPES[self.config.precision]
        with sharing(), torch.autocast(self.device.type, dtype=precision, enabled=precision != torch.float32):
            loss, terms = phase.loss(batch, moment)
        # gradients of this player alone: nothing leaks into the others, nothing has to be zeroed
        gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
        if self.rank.count > 1:
            loss, gradients = _averaged(loss.detach(), gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf)
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm)) & (self.first_bad < 0)
        self.first_bad = torch.where(bad, self.step, self.first_bad)  # stays on the device: no waiting for the GPU
        optimizer.step()
        phase.after()
        named = {"loss": loss, **terms, "grad_norm": norm}
        if lr != shared:
            named["lr"] = torch.tensor(lr)
        self.terms |= {f"{phase.name}/{name}": value.detach() for name, value in named.items()}

    @property
    def kimg(self) -> float:
        """Thousands of training images shown."""
        return self.images_shown / 1000

    def row(self) -> dict[str, float]:
        """The history's row of the step just done; `<phase>/lr` where a phase has another rate than `lr`.

        A phase that is only due now and then has the values of the last time; one whose span is over has none. All
        ranks get the means of what each has seen.
        """
        self._average_terms()
        done = self.step - 1
        running = {phase.name for phase in self.phases if done < round(phase.span[1] * self.steps)}
        terms = {name: float(value) for name, value in self.terms.items() if name.split("/")[0] in running}
        return {"step": self.step, "kimg": self.kimg, "lr": learning_rate(self.config, done, self.steps)} | terms

    def _average_terms(self) -> None:
        """Make the terms those of whole batches, on all ranks alike; only where they are read, as it takes a while."""
        if self.rank.count > 1:
            means = ranks.averages([float(value) for value in self.terms.values()])
            self.terms = {name: torch.tensor(mean) for name, mean in zip(self.terms, means, strict=True)}

    def raise_if_ranks_differ(self) -> None:
        """Raise a UserError if the ranks do not hold the same weights, which nothing but a fault can make differ."""
        if self.rank.count > 1 and not ranks.equal([*self.model.parameters(), *self.model.buffers()]):
            raise UserError(
                f"the weights of {self.rank.count} ranks differ at step {self.step}: their devices must be of the same "
                "kind, and sound"
            )

    def raise_if_not_finite(self) -> None:
        """Raise a UserError that names the first step whose loss or gradient was not finite."""
        if self.first_bad >= 0:
            raise UserError(
                f"training diverged: the loss or its gradient was not finite at step {int(self.first_bad) + 1} of "
                f"{self.steps}: lower train.lr, set train.clip_norm, or set train.precision to fp32"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on: weights, average, optimisers, position in the data, random numbers.

        All ranks have the same, and all call this; a training may be continued by any number of them.
        """
        self._average_terms()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizers": {player: o.state_dict() for player, o in self.optimizers.items()},
            "feed": self.feed.state_dict(),
            "generator": self.generator.get_state(),
            "random": random_states(self.device),
            "device": self.device.type,
            "step": self.step,
            "images_shown": self.images_shown,
            "terms": dict(self.terms),  # those of lazy phases appear in later rows
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another training of the same run was.

        Raises:
            UserError: that one ran on another kind of device, whose random numbers cannot be continued on this one.
        """
        if state["device"] != self.device.type:
            raise UserError(
                f"this training was begun on {state['device']}, and {self.device.type} draws other random numbers: set "
                f"runtime.device in params.yaml to {state['device']}, or delete the training's folder in .scratch"
            )
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        self.feed.load_state_dict(state["feed"])
        self.generator.set_state(state["generator"])
        set_random_states(state["random"], self.device)
        self.step, self.images_shown = state["step"], state["images_shown"]
        self.terms = dict(state["terms"])


@dataclass
class Log:
    """The records of a training so far; part of its checkpoint, so that a resumed training has the same.

    best: weights with the lowest validation value so far, None before the first one.
    seconds: time spent training, over all sessions.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A finished training: its log, the weights to evaluate and the step they are from."""

    log: Log
    weights: dict[str, Tensor]
    selected_step: int


def run(
    training: Training,
    checkpoint: Checkpoint,
    observer: Observer,
    *,
    validate: Callable[[GenerativeModel], float | None],
    sample: Callable[[GenerativeModel], NDArray[np.uint8] | None],
    title: str,
) -> Outcome:
    """Train to the end, from the checkpoint if there is one.

    At `config.snapshots` evenly spaced moments the averaged weights are sampled and validated; the weights with the
    lowest validation value are the outcome, or the last ones where the model has no such measure. At `config.rows`
    moments the history gets a row. Ctrl-C and SIGTERM end it between two steps, after saving.

    Where a training has several ranks, all of them call this. The first one's clock says when to save, and it alone
    saves and shows how far the training is; a signal to any rank ends all of them after the same step.

    Raises:
        UserError: a loss or gradient was not finite, and what was saved before stays; the checkpoint is of another kind
            of device.
    """
    log = Log()
    first = training.rank.first
    saved = checkpoint.load(training.device)
    if saved is not None:
        training.load_state_dict(saved["training"])
        log = Log(**saved["log"])
        if first:
            tqdm.write(f"{title}: continuing at step {training.step}")
    training.raise_if_ranks_differ()

    earlier, started = log.seconds, time.monotonic()

    def save() -> None:
        training.raise_if_not_finite()
        log.seconds = earlier + time.monotonic() - started
        state = {"training": training.state_dict(), "log": vars(log)}
        if first:
            checkpoint.save(state)

    def snapshot() -> None:
        training.raise_if_not_finite()
        training.raise_if_ranks_differ()
        images = sample(training.ema.model)
        if images is not None:
            observer.sampled(training.step, images)
        value = validate(training.ema.model) if training.step else None
        if value is not None:
            if not log.validation or value < min(entry["bits_per_dim"] for entry in log.validation):
                log.best = {k: v.detach().clone() for k, v in training.ema.model.state_dict().items()}
                log.best_step = training.step
            log.validation.append({"step": training.step, "kimg": training.kimg, "bits_per_dim": value})
            observer.validated(log.validation[-1])

    snapshots, rows = (moments(training.steps, count) for count in (training.config.snapshots, training.config.rows))
    if training.step == 0:
        snapshot()
    with listening() as interruption, _bar(title, training) as bar:
        for _ in bar:
            training.iterate()
            if training.step in rows:
                training.raise_if_not_finite()
                log.history.append(training.row())
                observer.row(log.history[-1])
                bar.set_postfix(_brief(log.history[-1]), refresh=False)
            if training.step in snapshots:
                snapshot()
            # by its own clock or signals, one rank would go on and wait forever for one that does not
            interruption.signal, due = ranks.highest(interruption.signal, first and checkpoint.due())
            if interruption.signal or due:
                save()
            interruption.raise_if_asked()
        save()
    last = training.ema.model.state_dict()
    return Outcome(
        log=log,
        weights=log.best or last,
        selected_step=log.best_step or training.step,
    )


def _optimizer(parameters: Sequence[Tensor], config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    fused = device.type in {"cpu", "cuda"}  # 2.3 times faster than the plain loop on a CPU
    # biases, gains and tokens are not decayed: the decay is against large matrices
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)


def _averaged(loss: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Loss and gradients of the whole batch, the means over the ranks, in one exchange; None is None on all ranks."""
    there = [gradient for gradient in gradients if gradient is not None]
    *means, whole = ranks.averaged([*there, loss.to(there[0].dtype)])
    left = iter(means)
    return whole, [None if gradient is None else next(left) for gradient in gradients]


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The gradient in its parameter's memory order: PyTorch's fused optimisers walk both without looking at strides."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _bar(title: str, training: Training) -> "tqdm[int]":
    steps: Iterator[int] | range = range(training.step, training.steps)
    return tqdm(
        steps,
        desc=title,
        initial=training.step,
        total=training.steps,
        unit="step",
        mininterval=0.5,
        disable=not training.rank.first,
    )


def _brief(row: dict[str, float]) -> dict[str, str]:
    """The losses of a row, for the progress bar."""
    losses = {name: value for name, value in row.items() if name.endswith("/loss")}
    return {name.split("/")[0] if len(losses) > 1 else "loss": f"{value:.4g}" for name, value in losses.items()}
