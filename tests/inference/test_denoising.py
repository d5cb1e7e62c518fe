import numpy as np
import pytest
import torch

from visage.inference.denoising import denoising_errors
from visage.measures.denoising import LEVELS
from visage.measures.table import MEASURES

CPU = torch.device("cpu")
FACES = np.random.default_rng(0).integers(100, 156, (40, 8, 8, 3), np.uint8)


def errors(denoise, images=FACES, batch_size=16):
    levels = list(LEVELS.values())
    found = denoising_errors(denoise, images, levels, seed=0, batch_size=batch_size, device=CPU)
    return dict(zip(LEVELS, found, strict=True))


def test_what_changes_nothing_leaves_the_noise():
    """Of pixels in [0, 1], where it is half as large; little of it is cut off at their ends."""
    found = errors(lambda x, sigma: x)
    for metric in ("denoise_mse_0_05", "denoise_mse_0_2"):
        assert found[metric].mean() == pytest.approx((LEVELS[metric] / 2) ** 2, rel=0.05)


def test_the_truth_has_no_error_and_each_level_gets_its_own_guess():
    truth = torch.from_numpy(FACES).permute(0, 3, 1, 2).float() / 127.5 - 1
    asked = []

    def denoise(x, sigma):
        asked.append(sigma)
        return truth + sigma / 50

    found = errors(denoise, batch_size=40)
    assert asked == list(LEVELS.values())
    for metric, sigma in LEVELS.items():
        assert found[metric] == pytest.approx((sigma / 100) ** 2, rel=1e-3)


def test_an_image_has_the_same_noise_in_every_batch_and_at_every_level():
    seen = []
    errors(lambda x, sigma: seen.append((x, sigma)) or x, FACES[:1])
    (first, sigma), *others = seen
    clean = torch.from_numpy(FACES[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    for x, other in others:
        torch.testing.assert_close((x - clean) / other, (first - clean) / sigma, rtol=0, atol=1e-4)
    whole, parts = errors(lambda x, sigma: x), errors(lambda x, sigma: x, batch_size=7)
    for metric in LEVELS:
        assert whole[metric] == pytest.approx(parts[metric], rel=1e-6)


def test_every_level_is_a_measure_that_names_it():
    rows = [measure for measure in MEASURES if measure.group == "denoising"]
    assert {row.key: f"Noise of {LEVELS[row.key]:g}" for row in rows} == {row.key: row.title for row in rows}
    assert [row.key for row in rows] == list(LEVELS)
