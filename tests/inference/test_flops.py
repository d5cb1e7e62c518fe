import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from visage import params as parameters
from visage.inference.flops import flops_of, flops_per_iteration
from visage.models.base import Batch, GenerativeModel, Phase
from visage.nn.unet import Attention
from visage.training.outputs import build_model

RECIPES = sorted(parameters.load(Path(__file__).resolve().parents[2] / "params.yaml").recipes)


class Two(GenerativeModel):
    """A linear and a convolutional player, with dropout and batch normalisation."""

    paper = "none"

    def __init__(self):
        super().__init__()
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 7))
        self.conv = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))
        self.given = [Phase("linear", self.linear_loss), Phase("conv", self.conv_loss, fresh=False)]

    def players(self):
        return {"linear": [self.linear], "conv": [self.conv]}

    def phases(self):
        losses = {"linear": self.linear_loss, "conv": self.conv_loss}
        return [dataclasses.replace(phase, loss=losses[phase.player]) for phase in self.given]

    def linear_loss(self, batch, step):
        return self.linear(batch.x).square().mean(), {}

    def conv_loss(self, batch, step):
        return self.conv(batch.x).square().mean(), {}


class Narrow(Two):
    """The first linear layer is no longer the linear player's."""

    def players(self):
        return {"linear": [self.linear[4]], "conv": [self.linear[1], self.conv]}


def batch_of(n, size=4):
    return Batch(torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.zeros(n, 0))


# forward, gradient at the weights, gradient at the input; the first layer's input needs none
LINEAR = 2 * (2 * 48 * 10 + 3 * 10 * 7)
CONV = 2 * (2 * 4 * (3 * 5 * 9) + 3 * 4 * (5 * 2))  # 2x2 positions


def test_linear_and_convolutional_layers_cost_what_they_cost_by_hand():
    for n in (2, 6):
        assert flops_per_iteration(Two(), batch_of(n)) == n * (LINEAR + CONV)


def test_a_phase_counts_by_how_often_it_runs():
    model = Two()
    linear, conv = model.given
    model.given = [dataclasses.replace(linear, every=4, span=(0.25, 0.75)), conv, conv]
    assert flops_per_iteration(model, batch_of(2)) == 2 * (LINEAR / 8 + 2 * CONV)


def test_only_the_gradients_of_the_phases_own_player_are_taken():
    model = Narrow()
    model.given = [model.given[0]]
    assert flops_per_iteration(model, batch_of(1)) == 2 * (48 * 10 + 2 * 10 * 7)


def test_attention_counts_its_two_products():
    attention, x = Attention(8), torch.rand(2, 8, 4, 4)
    projections = 2 * (2 * 16) * (8 * 24 + 8 * 8)
    products = 2 * (2 * 2 * 16 * 16 * 8)
    with torch.no_grad():
        assert flops_of(lambda: attention(x)) == projections + products
    # all of it twice more on the way back: the gain of the normalisation needs the gradient at its output
    gradients = flops_of(lambda: torch.autograd.grad(attention(x).sum(), list(attention.parameters())))
    assert gradients == 3 * (projections + products)


def test_fused_attention_costs_what_its_products_cost():
    """Two products forward, four backward; a fused kernel would run one of them again."""
    q = torch.rand(2, 3, 16, 8, requires_grad=True)
    once = 2 * (2 * 3 * 16 * 16 * 8)
    attend = partial(F.scaled_dot_product_attention, q, q, q)
    assert flops_of(attend) == 2 * once
    assert flops_of(lambda: torch.autograd.grad(attend().sum(), q)) == 6 * once


def test_a_gradient_penalty_is_counted():
    """The gradient at an input, and the gradient of its norm: a linear layer's is its weight."""
    layer = nn.Linear(12, 5, bias=False)
    x = torch.rand(4, 12, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(layer.parameters()))

    once = 2 * 4 * 12 * 5
    assert flops_of(penalty) == 3 * once  # forward, W^T 1, and the latter's gradient at W


def test_an_inner_product_of_two_images_counts_multiply_and_add():
    a = torch.rand(1, 1000)
    assert flops_of(lambda: F.linear(a, a)) == 2000


def test_dcgan_costs_what_its_layers_say(run_config):
    """The paper's nets: each layer halves or doubles the side; G once more, and D, for each player's step."""
    config = run_config("dcgan")
    model = build_model(config)
    width, z = config.settings["width"], config.settings["latent_dim"]
    sides = [16, 8, 4]
    channels = [3, width, 2 * width, 4 * width]
    halvings = [2 * 16 * i * o * s * s for i, o, s in zip(channels, channels[1:], sides, strict=False)]
    head = 2 * channels[-1] * 16
    start = 2 * z * channels[-1] * 16
    d, g = sum(halvings) + head, sum(halvings) + start  # a transposed convolution costs what the plain one does
    discriminator = g + 2 * (3 * d - halvings[0])  # no gradient at images
    generator = 3 * g - start + 2 * d  # through D, none at its weights
    assert flops_per_iteration(model, batch_of(8, 32)) == 8 * (discriminator + generator)
    with torch.no_grad():
        assert flops_of(lambda: model.eval().sample(3, torch.Generator())) == 3 * g


def test_the_model_and_the_random_numbers_stay_as_they_are():
    model = Two().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    flops_per_iteration(model, batch_of(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


class Operations(TorchDispatchMode):
    """Remembers the names of the operations that run inside it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=RECIPES)
def walked(request, run_config):
    """For each recipe what an iteration costs with four images and with two, and the operations that it runs."""
    model = build_model(run_config(request.param))
    y = torch.randint(0, 2, (200, len(model.attributes)), generator=torch.Generator().manual_seed(4)).float()
    rows = torch.arange(4)
    if (group := model.groups(y)) is not None:
        rows = torch.cat([(group == i).nonzero().flatten()[:2] for i in (0, 1)])
    x = batch_of(4, 32).x
    with Operations() as operations:
        four = flops_per_iteration(model, Batch(x, y[rows]))
    return four, flops_per_iteration(model, Batch(x[::2], y[rows[::2]])), operations.names


def test_every_model_costs_in_proportion_to_its_images(walked):
    four, two, _ = walked
    assert four == pytest.approx(2 * two, rel=1e-6)


UNREPEATABLE = {
    *("adaptive_avg_pool2d_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
    *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "grid_sampler_2d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "nll_loss2d_forward", "_ctc_loss_backward"),
    *("put_", "histc", "median", "kthvalue"),
}
"""What raises on CUDA under `torch.use_deterministic_algorithms`, by its docstring; the names are those of autograd."""


def test_no_model_trains_with_what_cuda_cannot_repeat(walked):
    assert not walked[2] & UNREPEATABLE
