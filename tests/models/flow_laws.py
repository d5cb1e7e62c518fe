"""The laws of a normalizing flow, for the test file of every model that is one."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch

from tests.models.helpers import generator, smooth, step, train, unlabelled
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.per_image import inverse_errors
from visage.maths.pixels import LEVELS, dequantize, quantization_nats, to_uint8
from visage.maths.units import bits_per_dim
from visage.nn.flow_layers import Bijection, Chain, Whitening


def jacobian_of(layer, x):
    """dz/dx by autograd, (D, D), for one image x (C, H, W)."""
    return torch.autograd.functional.jacobian(
        lambda y: layer.to_noise(y[None])[0].flatten(), x, vectorize=True
    ).flatten(1)


class Off(Bijection):
    """A flow whose inverse is wrong by `error`."""

    def __init__(self, inner, error):
        super().__init__()
        self.inner, self.error = inner, error

    def to_noise(self, x):
        return self.inner.to_noise(x)

    def from_noise(self, z):
        return self.inner.from_noise(z) + self.error


def layers_of(flow, kind):
    return [layer for layer in flow.modules() if isinstance(layer, kind)]


def trained_on(flow, x, steps):
    """The flow after training on one batch, and by how many bits per dimension its loss fell."""
    flow.train().initialize(unlabelled(x))
    before = flow.loss(unlabelled(x), step())[1]["bits_per_dim"].item()
    (terms,) = train(flow, [unlabelled(x)] * steps, lr=3e-3).values()
    return flow.eval(), before - terms["bits_per_dim"].item()


def whitened(flow):
    """The flow in float64, its whitening fitted to some images, all other layers as they were."""
    (layer,) = layers_of(flow.double().flow, Whitening)
    layer.fit(torch.rand(300, *flow.shape, dtype=torch.float64, generator=generator(5)).cumsum(3) / 4)
    return flow


class FlowLaws:
    """To inherit from, with `build`; the module has the fixtures `layer_and_x` (a bijection and two inputs, float64)
    and `trained`, what `trained_on` returns for 16 images of 16 x 16.

    build: (size=8, random=True) -> a small model in eval mode; a random one has no layers that are zero at first.
    build_whitened: (size, axes) -> a model that is whitened along so many axes, its couplings at their start.
    offset: what the flow sees is y01 minus this.
    """

    build: Callable
    build_whitened: Callable
    offset = 0.0

    def test_log_det_is_that_of_the_jacobian(self, layer_and_x):
        layer, x = layer_and_x
        _, log_det = layer.to_noise(x)
        assert log_det.shape == (2,)
        for one, value in zip(x, log_det, strict=True):
            assert abs(torch.linalg.slogdet(jacobian_of(layer, one)).logabsdet - value).item() < 1e-8

    def test_from_noise_undoes_to_noise(self, layer_and_x):
        layer, x = layer_and_x
        z, _ = layer.to_noise(x)
        assert z.shape == x.shape
        assert (layer.from_noise(z) - x).abs().max() < 1e-7
        assert layer.from_noise(torch.randn(x.shape, dtype=x.dtype, generator=generator())).isfinite().all()

    @pytest.mark.parametrize("axes", [0, 60])
    def test_initialisation_of_constant_images_stays_finite(self, axes):
        flow = self.build_whitened(8, axes)
        flow.initialize(unlabelled(torch.full((4, 3, 8, 8), -1.0)))
        assert flow.log_prob(smooth(2, 8), generator()).isfinite().all()
        assert flow.sample(2, generator()).isfinite().all()

    def test_only_the_initialisation_touches_the_act_norms(self):
        flow = self.build(random=False)
        flow.initialize(unlabelled(smooth(16, 8)))
        before = copy.deepcopy(flow.state_dict())
        resumed = self.build(random=False)
        resumed.load_state_dict(before)
        for each in (flow.train(), resumed.train()):
            each.loss(unlabelled(smooth(8, 8, seed=5)), step(index=5))
            each.log_prob(smooth(8, 8, seed=6), generator())
            for key, value in before.items():
                assert torch.equal(each.state_dict()[key], value), key

    def test_it_starts_at_the_gaussian_of_all_its_images_and_only_where_it_is_whitened(self):
        # images whose smallest variances are those of the noise that dequantises them, and of rounding to 8 bits
        x, others = smooth(1500, 8).split([1000, 500])
        flow, plain = self.build_whitened(8, 192), self.build_whitened(8, 0)
        for each in (flow, plain):
            each.initialize(unlabelled(x))
        assert (flow.initial_images, plain.initial_images) == (8192, 1024)
        assert not layers_of(plain.flow, Whitening)
        (whitening,) = layers_of(flow.flow, Whitening)
        head = Chain(*itertools.takewhile(lambda layer: layer is not whitening, flow.flow.layers), whitening)
        u = torch.rand(others.shape, generator=generator(3))
        with torch.no_grad():
            z, log_det = head.to_noise(dequantize(others, u) - self.offset)
            normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
            gaussian = normal + log_det - quantization_nats(flow.dims)
            started, unwhitened = (each.log_density(others, u) for each in (flow, plain))
        assert z.square().mean().item() == pytest.approx(1, abs=0.1)
        assert bits_per_dim((started - gaussian).mean().item(), flow.dims) == pytest.approx(0, abs=0.1)
        assert bits_per_dim((unwhitened - gaussian).mean().item(), flow.dims) > 1

    def test_loss_falls_and_is_the_mean_of_log_prob(self, trained, monkeypatch):
        flow, gain = trained
        assert gain > 0.5
        x, u = smooth(6), torch.full((6, 3, 16, 16), 0.25)
        monkeypatch.setattr(torch, "rand", lambda shape, generator, device=None: u[0] if len(shape) == 3 else u)
        loss, terms = flow.loss(unlabelled(x), step())
        nats = flow.log_prob(x, generator())
        assert loss.item() == pytest.approx(-nats.mean().item(), rel=1e-6)
        assert terms.get("nll", loss).item() == pytest.approx(loss.item())
        assert terms["bits_per_dim"].item() == pytest.approx(bits_per_dim(nats.mean().item(), 768), rel=1e-6)
        assert not any(term.requires_grad for term in terms.values())

    def test_log_prob_of_an_image_does_not_depend_on_its_batch(self, trained):
        flow, _ = trained
        x = smooth(6, seed=2)
        together, alone, other = (flow.log_prob(y, generator())[0] for y in (x, x[:1], torch.cat([x[:1], -x[1:]])))
        for one in (alone, other):
            assert bits_per_dim((together - one).item(), 768) == pytest.approx(0, abs=1e-6)

    def test_log_prob_in_float32_is_that_of_float64_and_ignores_autocast(self, trained):
        flow, _ = trained
        x = smooth(8, seed=3)
        plain = flow.log_prob(x, generator())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = flow.log_prob(x, generator())
            loss = flow.loss(unlabelled(x), step())[0].item()
        double = copy.deepcopy(flow).double().log_prob(x.double(), generator())
        assert plain.dtype == cast.dtype == double.dtype == torch.float64
        assert bits_per_dim((plain - cast).abs().max(), 768).abs() < 1e-6
        assert bits_per_dim((plain - double).abs().max(), 768).abs() < 1e-3
        # in training the networks do run in bfloat16: close, and not the same
        assert 0 < abs(bits_per_dim(-loss - plain.mean().item(), 768)) < 0.05

    def test_decoding_a_code_returns_the_image_whether_or_not_its_values_are_rounded(self, trained):
        flow, _ = trained
        x = smooth(8, seed=3)
        assert flow.encode(x).shape == (8, 768)
        for image in (x, 0.99 * x + 0.003):
            torch.testing.assert_close(flow.decode(flow.encode(image)), image, rtol=0, atol=1e-4)
        # the code of an 8-bit image is that of the middle of its bins
        z, _ = flow.flow.to_noise(dequantize(x, torch.tensor(0.5)) - self.offset)
        torch.testing.assert_close(flow.encode(x), z.flatten(1), rtol=1e-4, atol=1e-4)

    def test_the_inverse_error_that_is_measured_is_the_flows_own(self):
        flow, x = self.build(16, random=False), smooth(3, seed=3)
        for error in (0.0, 3e-5, -2e-3):
            wrong = copy.deepcopy(flow)
            wrong.flow = Off(flow.flow, error)
            with torch.no_grad():
                measured = inverse_errors(EvaluatedModel(wrong, None, torch.device("cpu"), 16), to_uint8(x).numpy())
            assert measured.tolist() == pytest.approx([abs(error) * 256 / 255] * 3, abs=2e-6)
            assert measured.max() > 0, "float32 arithmetic is never exact: something was rounded"

    def test_a_picture_of_a_code_shows_the_bins_in_which_it_lies(self, trained):
        flow, _ = trained
        z = flow.prior(5, generator(9))
        with torch.no_grad():
            v = (LEVELS * (flow.flow.from_noise(z.view(-1, *flow.shape)) + self.offset)).clamp(0, 255.999)
            shown = to_uint8(flow.decode(z)).permute(0, 3, 1, 2)
        inside = (v - v.round()).abs() > 1e-4  # on the border of two bins, either is right; so is 0 where v was less
        assert inside.float().mean() > 0.8
        assert torch.equal(shown[inside], v.floor().to(torch.uint8)[inside])
        assert torch.equal(to_uint8(flow.sample(5, generator(9))), to_uint8(flow.decode(z)))

    def test_samples_are_images_that_do_not_depend_on_how_many_are_drawn(self, trained):
        flow, _ = trained
        many, one = flow.sample(5, generator(9)), flow.sample(1, generator(9))
        assert many.shape == (5, 3, 16, 16)
        assert many.abs().max() <= 1
        torch.testing.assert_close(many[:1], one, rtol=0, atol=1e-4)
        assert torch.equal(flow.prior(5, generator(9))[:1], flow.prior(1, generator(9)))

    def test_all_noise_comes_from_the_generator(self, trained):
        flow, _ = trained
        x, results = smooth(4), []
        for seed in (0, 1):
            torch.manual_seed(seed)
            loss, _ = flow.loss(unlabelled(x), step())
            results.append((loss, flow.log_prob(x, generator(3)), flow.sample(2, generator(3)), flow.encode(x)))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(flow.log_prob(x, generator(3)), flow.log_prob(x, generator(4)))

    def test_the_gradient_in_the_image_is_that_of_finite_differences_in_its_values(self):
        # v and u enter as (v + u) / 256 alone, and v is 127.5 (x + 1)
        flow, x = self.build().double(), smooth(2, 8).double().requires_grad_()
        u = 0.1 + 0.8 * torch.rand(x.shape, generator=generator(3), dtype=torch.float64)
        direction = torch.randn(x.shape, generator=generator(4), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(flow.log_density(x, u).sum(), x)
        with torch.no_grad():
            up, down = (flow.log_density(x, u + h * direction).sum() for h in (1e-4, -1e-4))
        assert (gradient * direction).sum().item() == pytest.approx(127.5 * ((up - down) / 2e-4).item(), rel=1e-5)
