import dataclasses
import math
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from visage.config import RuntimeConfig, TrainConfig
from visage.errors import UserError
from visage.models.base import Batch, GenerativeModel, Phase, Step
from visage.training.checkpoint import Checkpoint
from visage.training.devices import choose_device, start_device
from visage.training.ema import Ema
from visage.training.feed import Feed
from visage.training.interruption import listening
from visage.training.loop import Training, run
from visage.training.outputs import build_model
from visage.training.plan import is_due, learning_rate, misfits, moments, total_steps

CPU = torch.device("cpu")
SAVED = {"training": {"a": 1}, "log": {}}
CONFIG = TrainConfig(
    kimg=0.6,  # 20 steps: one phase takes 20 images every step, the other every second step
    batch_size=20,
    optimizer="adam",
    lr=0.01,
    lr_factors={},
    betas=(0.9, 0.999),
    weight_decay=0.0,
    lr_schedule="constant",
    lr_final=0.01,
    warmup_kimg=0,
    clip_norm=0,
    ema_decay=0.9,
    flip=True,
    precision="fp32",
    snapshots=4,
    rows=4,
)


class Pair(GenerativeModel):
    """Two players that pull one image mean each: small enough to know every number."""

    paper = "none"

    def __init__(self, bad_at=None):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1), nn.Linear(1, 1)
        self.bad_at = bad_at
        self.moments = []
        self.after_calls = 0

    def players(self):
        return {"first": [self.first], "second": [self.second]}

    def phases(self):
        return [
            Phase("first", self._first),
            Phase("second", self._second, every=2, after=self._after),
        ]

    def _after(self):
        self.after_calls += 1

    def _first(self, batch: Batch, step: Step):
        self.moments.append(step.index)
        noise = torch.randn((), generator=step.generator)
        dropped = torch.rand(())  # as dropout draws it, from the global generator
        loss = (self.first(batch.x.mean().reshape(1, 1)) - 0.3 - 0.01 * (noise + dropped)).square().sum()
        if step.index == self.bad_at:
            loss = loss * float("nan")
        return loss, {"noise": noise}

    def _second(self, batch: Batch, step: Step):
        return (self.second(self.first(batch.x.mean().reshape(1, 1))) + 1).square().sum(), {}


class Ears:
    def __init__(self):
        self.rows, self.validations, self.samples = [], [], []

    def row(self, values):
        self.rows.append(values)

    def validated(self, values):
        self.validations.append(values)

    def sampled(self, step, images):
        self.samples.append(step)


@pytest.fixture
def make(images):
    def training(config=CONFIG, **kwargs):
        torch.manual_seed(0)
        feed = Feed(images, np.zeros((len(images), 40), np.uint8), batch_size=20, flip=True, seed=0, device=CPU)
        return Training(Pair(**kwargs), config, feed, seed=0)

    return training


def go(training, folder, ears=None, validate=lambda model: None):
    with Checkpoint(folder) as checkpoint:
        return run(
            training,
            checkpoint,
            ears or Ears(),
            validate=validate,
            sample=lambda m: np.zeros((1, 4, 4, 3), np.uint8),
            title="t",
        )


def test_lazy_phases_run_when_due_and_after_is_called(make, tmp_path):
    training = make()
    go(training, tmp_path / "s")
    assert training.model.moments == list(range(20))
    assert training.model.after_calls == 10
    assert training.images_shown == 20 * (20 + 10)


def test_rows_samples_and_validations_come_at_their_moments(make, tmp_path):
    ears = Ears()
    values = iter([4.0, 2.0, 3.0, 5.0])
    outcome = go(make(), tmp_path / "s", ears, validate=lambda model: next(values))
    assert [row["step"] for row in ears.rows] == [5, 10, 15, 20]
    assert ears.samples == [0, 5, 10, 15, 20]
    assert [v["bits_per_dim"] for v in ears.validations] == [4, 2, 3, 5]
    assert outcome.selected_step == 10
    assert set(ears.rows[0]) == {
        "step", "kimg", "lr", "first/loss", "first/noise", "first/grad_norm", "second/loss", "second/grad_norm",
    }  # fmt: skip


def test_without_a_measure_the_last_weights_are_chosen(make, tmp_path):
    training = make()
    outcome = go(training, tmp_path / "s")
    assert outcome.selected_step == 20
    assert torch.equal(outcome.weights["first.weight"], training.ema.model.first.weight)


def test_best_weights_are_those_of_the_best_moment(make, tmp_path):
    seen = []
    outcome = go(make(), tmp_path / "s", validate=lambda m: seen.append(m.first.weight.item()) or len(seen))
    assert outcome.weights["first.weight"].item() == seen[0]


def test_killed_at_any_step_and_resumed_is_the_same_training(make, tmp_path):
    whole = go(make(), tmp_path / "whole", validate=lambda m: m.first.weight.item())
    for stop in (1, 7, 13):
        ears, training = Ears(), make()
        original = training.iterate

        def iterate(original=original, training=training, stop=stop):
            original()
            if training.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        training.iterate = iterate
        folder = tmp_path / str(stop)
        with pytest.raises(SystemExit):
            go(training, folder, ears, validate=lambda m: m.first.weight.item())
        assert training.step == stop
        resumed = go(make(), folder, ears, validate=lambda m: m.first.weight.item())
        assert resumed.log.history == whole.log.history
        assert resumed.log.validation == whole.log.validation
        assert all(torch.equal(resumed.weights[k], whole.weights[k]) for k in whole.weights)


def test_divergence_names_the_step_and_saves_nothing_bad(make, tmp_path):
    with pytest.raises(UserError, match="step 8 of 20"):
        go(make(bad_at=7), tmp_path / "s")
    assert not (tmp_path / "s" / "checkpoint.pt").exists()


def test_two_trainings_of_one_run_take_turns(tmp_path, capsys):
    seen = []

    def second():
        with Checkpoint(tmp_path / "s") as checkpoint:
            seen.append(checkpoint.load(CPU))

    thread = threading.Thread(target=second)
    with Checkpoint(tmp_path / "s") as checkpoint:
        thread.start()
        while "another process" not in capsys.readouterr().out:
            time.sleep(0.01)
        assert not seen
        checkpoint.save(SAVED)
    thread.join()
    assert seen == [SAVED]


def test_a_damaged_checkpoint_is_named(make, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be read.*delete it"):
        go(make(), tmp_path / "s")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_byte_that_changed_in_a_tensor_is_noticed(make, tmp_path):
    """PyTorch would read it without a word."""
    training = make()
    with Checkpoint(tmp_path / "run") as checkpoint:
        checkpoint.save({"training": training.state_dict(), "log": {}})
        parameter = next(training.model.parameters()).detach().numpy().tobytes()
        content = bytearray(checkpoint.path.read_bytes())
        content[content.index(parameter) + 1] ^= 1
        checkpoint.path.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint\.pt is damaged, its part .*data/\d+ is not as it was written"):
            checkpoint.load(training.device)


@pytest.mark.parametrize("content", [[1, 2], {"training": {}}, torch.zeros(3)])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    with Checkpoint(tmp_path / "run") as checkpoint:
        torch.save(content, checkpoint.path)
        with pytest.raises(UserError, match=r"checkpoint\.pt is no checkpoint of a training: delete it"):
            checkpoint.load(torch.device("cpu"))


class Attack:
    """Runs code where a pickle of it is loaded without care."""

    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_checkpoint_is_never_run(tmp_path, capsys):
    with Checkpoint(tmp_path / "run") as checkpoint:
        torch.save({"training": Attack(), "log": {}}, checkpoint.path)
        with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read"):
            checkpoint.load(torch.device("cpu"))
        checkpoint.path.write_bytes(pickle.dumps(Attack()))
        with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read"):
            checkpoint.load(torch.device("cpu"))
    assert "code was run" not in capsys.readouterr().out


def test_a_full_disk_keeps_the_old_checkpoint(make, tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "s")
    with checkpoint:
        checkpoint.save(SAVED)
        monkeypatch.setattr(torch, "save", lambda state, path: Path("/dev/full").write_bytes(b"x"))
        with pytest.raises(UserError, match="make room on the disk"):
            checkpoint.save({})
        monkeypatch.undo()
        assert checkpoint.load(CPU) == SAVED
        assert [p.name for p in (tmp_path / "s").iterdir()] == ["checkpoint.pt"]


COSINE = dataclasses.replace(CONFIG, lr_schedule="cosine", warmup_kimg=0.15)  # 5 of 20 steps


def test_learning_rate_rises_then_falls_as_stated():
    rates = [learning_rate(COSINE, step, 20) for step in range(21)]
    assert rates[0] == pytest.approx(0.01 * 1 / 5)
    assert rates[10] == pytest.approx(0.01 * (0.01 + 0.99 * 0.5))
    assert rates[20] == pytest.approx(0.01 * 0.01)


def test_a_row_names_the_learning_rate_of_its_own_step(make, tmp_path):
    training, used = make(dataclasses.replace(COSINE, rows=20)), []
    after = training.ema.update
    training.ema.update = lambda *args: used.append(training.optimizers["first"].param_groups[0]["lr"]) or after(*args)
    history = go(training, tmp_path / "s").log.history
    assert [row["lr"] for row in history] == used
    assert used[0] == pytest.approx(0.01 * 1 / 5)
    assert not any("first/lr" in row for row in history)


def test_each_phase_of_a_player_has_its_own_columns(make):
    training = make()
    training.phases = [
        Phase("first", lambda batch, step: (7 + 0 * training.model.first.weight.sum(), {})),
        Phase("first", lambda batch, step: (3 * training.model.first.weight.square().sum(), {}), every=4, name="lazy"),
    ]
    for _ in range(3):
        training.iterate()
    row = training.row()
    assert set(row) == {"step", "kimg", "lr", "first/loss", "first/grad_norm", "lazy/loss", "lazy/grad_norm"}
    assert row["first/loss"] == 7
    assert row["lazy/loss"] != 7


@pytest.mark.parametrize("recipe", ["stylegan", "wgan_gp", "vq_vae"])
def test_phases_of_one_name_are_one_phase(recipe, run_config):
    named = {}
    for phase in build_model(run_config(recipe)).phases():
        assert named.setdefault(phase.name, phase) == phase


def test_clipping_bounds_the_step_and_logs_the_norm_before_it(make):
    training = make(dataclasses.replace(CONFIG, clip_norm=1e-3))
    training.iterate()
    gradients = [p.grad for p in training.parameters["first"]]
    assert math.sqrt(sum(g.square().sum().item() for g in gradients)) == pytest.approx(1e-3, rel=1e-3)
    assert training.terms["first/grad_norm"] > 1e-3


def test_a_parameters_memory_order_does_not_change_its_update(make):
    """The fused Adam takes gradients and parameters for equally laid out; W.T's gradient is not."""

    class Transposed(Pair):
        def __init__(self, transposed):
            super().__init__()
            weight = torch.arange(6.0).view(2, 3)
            self.first = nn.Module()
            self.first.weight = nn.Parameter(weight.T.contiguous().T if transposed else weight)

        def phases(self):
            return [Phase("first", self._first)]

        def _first(self, batch, step):
            target = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
            return (self.first.weight * target).contiguous().sum(), {}

    results = []
    for transposed in (True, False):
        training = make()
        model = Transposed(transposed)
        training = Training(model, CONFIG, training.feed, seed=0)
        training.iterate()
        results.append(model.first.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])


def test_ema_forgets_the_start_and_has_the_models_buffers():
    model = Pair()
    model.register_buffer("count", torch.zeros(()))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        ema = Ema(model, 0.9999)
        for p in model.parameters():
            p.fill_(1.0)
        model.count.fill_(7)
    for n in range(10):
        ema.update(model, n)
    # with d_n = (1 + n) / (10 + n) the start keeps prod d_n = 1 / C(19, 9) of its weight after ten updates
    assert ema.model.first.weight.item() == pytest.approx(1 - 1 / math.comb(19, 9), abs=1e-5)
    assert ema.model.count.data_ptr() == model.count.data_ptr()


def test_moments_are_even_and_end_with_the_last_step():
    assert moments(20, 4) == {5, 10, 15, 20}
    assert moments(7, 3) == {3, 5, 7}
    assert moments(3, 300) == {1, 2, 3}
    assert len(moments(1_400_000, 300)) == 300


def test_feed_shows_every_image_once_an_epoch_and_flips_half(images):
    numbered = np.zeros((200, 4, 4, 3), np.uint8)
    numbered[:, 0, 0, 0] = np.arange(200)  # left edge: the number; mirrored images carry it at the right edge
    feed = Feed(numbered, np.zeros((200, 0), np.uint8), batch_size=20, flip=True, seed=1, device=CPU)
    orders, mirrored = [], 0
    for _ in range(3):
        order = []
        for _ in range(10):
            x = feed.next().x
            left, right = x[:, 0, 0, 0], x[:, 0, 0, -1]
            mirrored += int((right > -1).sum())
            order += ((torch.maximum(left, right) + 1) * 127.5).round().int().tolist()
        assert sorted(order) == list(range(200))
        orders.append(order)
    assert orders[0] != orders[1]
    assert 240 < mirrored < 360


def test_which_images_of_a_batch_are_mirrored_is_independent():
    """A discriminator that compares images of a batch must not recognise real ones by how many of them are mirrored."""
    marked = np.zeros((64, 4, 4, 3), np.uint8)
    marked[:, :, 0] = 255
    feed = Feed(marked, np.zeros((64, 0), np.uint8), batch_size=16, flip=True, seed=1, device=CPU)
    mirrored = torch.stack([feed.next().x[:, 0, 0, -1] > 0 for _ in range(400)]).float()
    correlation = torch.corrcoef(mirrored.T) - torch.eye(16)
    assert correlation.abs().max() < 0.25  # 4 standard deviations and more of independent coins; sorted ones have 0.5
    assert (mirrored.mean(0) - 0.5).abs().max() < 0.12


def test_feed_carries_attributes_with_their_images():
    numbered = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    labels = (np.arange(100, dtype=np.uint8)[:, None] >> np.arange(7)) & 1
    feed = Feed(numbered, labels, batch_size=10, flip=True, seed=1, device=CPU)
    batch = feed.next()
    number = ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int()
    assert torch.equal((batch.y.int() << torch.arange(7)).sum(1).int(), number)


def test_feed_resumes_in_the_middle_of_an_epoch(images):
    def feed():
        return Feed(images, np.zeros((200, 40), np.uint8), batch_size=30, flip=True, seed=2, device=CPU)

    a, b = feed(), feed()
    for _ in range(9):
        a.next()
    b.load_state_dict(a.state_dict())
    for _ in range(8):
        assert torch.equal(a.next().x, b.next().x)


def test_too_few_images_for_a_batch(images):
    with pytest.raises(UserError, match=r"batch_size is 300, but there are 200"):
        Feed(images, np.zeros((200, 40), np.uint8), batch_size=300, flip=True, seed=0, device=CPU)


def test_groups_share_each_batch_equally_and_in_order():
    numbered = np.arange(90, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    groups = torch.tensor([0, 1, -1]).repeat_interleave(30)[torch.randperm(90)]
    groups[:5] = -1
    feed = Feed(numbered, np.zeros((90, 0), np.uint8), batch_size=8, flip=True, seed=1, device=CPU, groups=groups)
    seen = []
    for _ in range(6):
        number = ((feed.next().x[:, 0, 0, 0] + 1) * 127.5).round().int()
        assert groups[number].tolist() == [0] * 4 + [1] * 4
        seen += number.tolist()
    assert len(set(seen)) == len(seen)  # nothing twice within an epoch of either group
    twin = Feed(numbered, np.zeros((90, 0), np.uint8), batch_size=8, flip=True, seed=1, device=CPU, groups=groups)
    twin.load_state_dict(feed.state_dict())
    assert torch.equal(feed.next().x, twin.next().x)
    assert feed.first(6).x.shape[0] == 6


def test_a_group_without_enough_images_is_named():
    images = np.zeros((50, 4, 4, 3), np.uint8)
    groups = torch.zeros(50, dtype=torch.int64)
    with pytest.raises(
        UserError, match=r"batch_size is 8, 4 of each group, but there are 0 training images of group 1 of 2"
    ):
        Feed(images, np.zeros((50, 0), np.uint8), batch_size=8, flip=True, seed=1, device=CPU, groups=groups)


def test_a_phase_runs_in_its_span_of_the_training_only(make):
    class Staged(Pair):
        def phases(self):
            return [Phase("first", self._first, span=(0, 0.75)), Phase("second", self._second, span=(0.75, 1))]

    training = make()
    training.phases = Staged.phases(training.model)
    training.steps = 20
    due = [[is_due(phase, step, 20) for phase in training.phases] for step in range(20)]
    assert due == [[True, False]] * 15 + [[False, True]] * 5
    assert total_steps(CONFIG, training.phases) == 30  # 600 images, 20 in each step of either stage
    before = [p.clone() for p in training.parameters["second"]]
    for _ in range(15):
        training.iterate()
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters["second"], strict=True))
    first = [p.clone() for p in training.parameters["first"]]
    for _ in range(5):
        training.iterate()
    assert all(torch.equal(a, b) for a, b in zip(first, training.parameters["first"], strict=True))
    assert not torch.equal(before[0], training.parameters["second"][0])
    assert training.images_shown == 20 * 20


def test_players_may_learn_at_rates_of_their_own(make):
    config = dataclasses.replace(CONFIG, lr_schedule="cosine", lr_final=0.0)
    assert learning_rate(config, 15, 20, (0.5, 1.0)) == pytest.approx(config.lr / 2)  # half way through its span
    assert learning_rate(config, 15, 20, (0.0, 0.75)) == 0.0
    assert learning_rate(config, 15, 20) < config.lr / 2

    training = make(dataclasses.replace(CONFIG, lr_factors={"second": 0.25}))
    training.iterate()
    rates = {player: o.param_groups[0]["lr"] for player, o in training.optimizers.items()}
    assert rates == {"first": 0.01, "second": 0.0025}
    assert training.row()["second/lr"] == pytest.approx(0.0025)
    assert "first/lr" not in training.row()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_factors": {"third": 2.0}}, {"lr_factors": "third is no player of this model (there are: first, second)"}),
        ({"warmup_kimg": 0.7}, {"warmup_kimg": "0.7 is longer than the training, kimg 0.6"}),
        ({"snapshots": 21}, {}),  # then every step is one
        ({"warmup_kimg": 0.6, "snapshots": 20, "rows": 1000, "lr_factors": {"first": 2.0}}, {}),
        (
            {"warmup_kimg": 99, "lr_factors": {"third": 2.0}},
            {"lr_factors": "third is no player", "warmup_kimg": "99 is longer"},
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_named(changes, words):
    found = misfits(dataclasses.replace(CONFIG, **changes), Pair())
    assert found.keys() == words.keys()
    assert all(word in found[key] for key, word in words.items())


def test_a_batch_that_its_groups_cannot_share_is_named(run_config):
    config = run_config("cyclegan")
    model = build_model(config)
    assert misfits(config.train, model) == {}
    odd = dataclasses.replace(config.train, batch_size=15)
    assert "15 cannot be shared out equally to the 2 groups" in misfits(odd, model)["batch_size"]


def test_weights_decay_and_biases_do_not(make):
    for kind in ("adam", "adamw", "rmsprop"):
        training = make(dataclasses.replace(CONFIG, optimizer=kind, weight_decay=0.5))
        decayed = {
            id(p): group["weight_decay"] for group in training.optimizers["first"].param_groups for p in group["params"]
        }
        assert decayed == {id(training.model.first.weight): 0.5, id(training.model.first.bias): 0.0}


def test_missing_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match=r"runtime.device is cuda.*auto or cpu"):
        choose_device("cuda")
    assert choose_device("cpu") == CPU


def test_precision_is_what_was_asked_for(make):
    class Seen(Pair):
        def _first(self, batch, step):
            self.dtype = (batch.x[0, 0] @ batch.x[0, 1]).dtype  # autocast rounds what a product is made of
            return super()._first(batch, step)

    feed = make().feed
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        training = Training(Seen(), dataclasses.replace(CONFIG, precision=precision), feed, seed=0)
        training.iterate()
        assert training.model.dtype == dtype


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts the device of a runtime.json; PyTorch's settings are as before in the end."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.get_deterministic_debug_mode())
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)

    def go(deterministic):
        RuntimeConfig("cpu", 1, deterministic, "tests").save()
        return start_device()

    yield go
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
    torch.set_deterministic_debug_mode(before[3])


def test_nothing_is_rounded_to_tf32(start):
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    cuda.allow_tf32 = cudnn.allow_tf32 = True
    assert start(False) == CPU
    assert not cuda.allow_tf32
    assert not cudnn.allow_tf32
    assert "tf32" not in {kind.fp32_precision for kind in (torch.backends, cuda, cudnn, cudnn.conv, cudnn.rnn)}


def test_cuda_repeats_itself_where_it_is_asked_to(start):
    start(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    start(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_checkpoint_of_another_kind_of_device_is_refused(make, tmp_path):
    training = make()
    training.iterate()
    with Checkpoint(tmp_path / "s") as checkpoint:
        checkpoint.save({"training": training.state_dict() | {"device": "cuda"}, "log": {}})
    with pytest.raises(UserError, match=r"begun on cuda, and cpu draws other.*runtime.device"):
        go(make(), tmp_path / "s")


def test_signals_wait_for_the_end_of_the_step():
    reached = False
    with listening() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
        with pytest.raises(KeyboardInterrupt):
            interruption.raise_if_asked()
    assert reached
