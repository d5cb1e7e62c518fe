import io

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import LinearVAE, Normalised, OnlySamples

from visage.evaluation.bootstrap import auroc
from visage.evaluation.ood import PixelGaussian, baselines, own_scores, score_table

CPU = torch.device("cpu")


def ask(model, images, batch_size=7):
    with torch.no_grad():
        return own_scores(model.eval(), images, seed=0, device=CPU, batch_size=batch_size)


def test_grey_images_are_told_from_coloured_ones_by_chroma_alone(images, grey_images):
    gaussian = PixelGaussian.fit(images)
    faces, others = baselines(images, gaussian), baselines(grey_images, gaussian)
    assert (others["grey"] == 0).all()
    assert auroc(faces["grey"], others["grey"]) == 1.0
    assert auroc(faces["png_large"], others["png_large"]) == 1 - auroc(faces["png_small"], others["png_small"])


def test_baselines_are_what_they_say():
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, :4] = (200, 100, 50)
    found = baselines(image, PixelGaussian.fit(image))
    assert found["grey"] == -(100 + 50) / 4
    assert found["dark"] == pytest.approx(-350 / 3 / 4)
    assert found["zeros"] == 0.75
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, format="PNG")
    assert found["png_large"] == len(file.getvalue()) == -found["png_small"]


def test_the_pixel_gaussian_is_the_normal_density_of_its_training_images(images):
    gaussian = PixelGaussian.fit(images)
    v = images.astype(np.float64)
    variance = v.var(0) + 1 / 12
    expected = 0.5 * ((v - v.mean(0)) ** 2 / variance + np.log(2 * np.pi * variance)).mean((1, 2, 3))
    assert gaussian.nats_per_dim(images) == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(PixelGaussian.fit(images[:1]).nats_per_dim(images)).all()


def test_a_mirrored_set_is_not_told_from_the_set(images):
    gaussian = PixelGaussian(np.full((16, 16, 3), 100.0), np.ones((16, 16, 3)))
    faces, mirrored = baselines(images, gaussian), baselines(images[:, :, ::-1], gaussian)
    for name in ("grey", "dark", "zeros"):
        assert auroc(faces[name], mirrored[name]) == 0.5


def test_a_score_does_not_see_the_rest_of_its_batch(images, grey_images):
    pure = [ask(Normalised(), part)["norm"] for part in (images, grey_images)]
    mixed = np.random.default_rng(0).permutation(len(images) + len(grey_images))
    found = ask(Normalised(), np.concatenate([images, grey_images])[mixed], batch_size=5)["norm"]
    assert found == pytest.approx(np.concatenate(pure)[mixed], abs=1e-6)


def test_the_order_of_scores(images):
    own = ask(LinearVAE(), images)
    nll, recon = np.arange(24.0), np.ones(24)
    assert list(own) == ["length", "darkness"]
    assert list(score_table(nll, 10.0, recon, own)) == ["nll", "recon", "typicality", "length", "darkness"]
    assert list(score_table(None, None, recon, own)) == ["recon", "length", "darkness"]
    assert list(score_table(None, None, None, own)) == ["length", "darkness"]
    assert score_table(nll, 10.0, None, {})["typicality"].tolist() == np.abs(nll - 10).tolist()


def test_a_model_without_scores(images):
    assert ask(OnlySamples(), images) == {}
