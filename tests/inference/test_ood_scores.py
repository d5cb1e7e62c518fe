import numpy as np
import pytest
import torch

from tests.small_models import LinearVAE, Normalised, OnlySamples, log_normal
from visage.inference.ood_scores import gradient_norm, own_scores
from visage.maths import noise

CPU = torch.device("cpu")


def ask(model, images, batch_size=7):
    with torch.no_grad():
        return own_scores(model.eval(), images, seed=0, device=CPU, batch_size=batch_size).scores


def test_a_score_does_not_see_the_rest_of_its_batch(images, grey_images):
    pure = [ask(Normalised(), part)["norm"] for part in (images, grey_images)]
    mixed = np.random.default_rng(0).permutation(len(images) + len(grey_images))
    found = ask(Normalised(), np.concatenate([images, grey_images])[mixed], batch_size=5)["norm"]
    assert found == pytest.approx(np.concatenate(pure)[mixed], abs=1e-6)


def test_own_scores_keep_the_models_order(images):
    assert list(ask(LinearVAE(), images)) == ["length", "darkness"]


def test_a_model_without_scores(images):
    assert ask(OnlySamples(), images) == {}


def test_it_is_seen_whether_a_score_draws_random_numbers(images):
    class Noisy(LinearVAE):
        def ood_scores(self, x, generator):
            return {"noisy": x.flatten(1).mean(1) + noise.randn(len(x), (), generator)}

    with torch.no_grad():
        found = [own_scores(kind(), images, seed=0, device=CPU, batch_size=7).random for kind in (LinearVAE, Noisy)]
    assert found == [False, True]


def test_gradient_norm_of_a_gaussian_is_that_of_its_whitened_residual():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    covariance = root @ root.T + torch.eye(12, dtype=torch.float64)
    mean, x = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    scale = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        found = gradient_norm(lambda images: log_normal(images.flatten(1), mean[0], scale), x.reshape(5, 3, 2, 2))
    expected = torch.linalg.solve(covariance, (x - mean[0]).T).norm(dim=0)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-10)
    assert not found.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize(
    "flat",
    [lambda x: (x * 127.5).round().square().flatten(1).sum(1), lambda x: torch.zeros(len(x))],
    ids=["rounds", "ignores"],
)
def test_a_likelihood_without_a_gradient_has_no_norm(flat):
    assert gradient_norm(flat, torch.rand(4, 3, 2, 2)).isnan().all()
