from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_data import SETTINGS, write_data
from tests.small_models import SIZE, Small
from visage.data.face_factors import DISTRIBUTIONS, sample_factors
from visage.evaluation.codes import DISENTANGLEMENT, chosen_factors
from visage.evaluation.evaluate import evaluate

CPU = torch.device("cpu")


def test_chosen_factors_are_those_of_drawn_faces_and_of_the_right_kind():
    drawn = [sample_factors(0, i, i) for i in range(100)]
    chosen = chosen_factors(list(DISTRIBUTIONS))
    assert 12 <= len(chosen) <= 20
    for factor in chosen:
        values = {getattr(face, factor.name) for face in drawn}
        whole = all(value == int(value) for value in values)
        assert len(values) > 1
        assert factor.categorical == whole, factor
    assert [factor.name for factor in chosen_factors(["yaw", "skin", "other"])] == ["skin", "yaw"]
    assert chosen_factors([]) == []


def rectangles(n, seed):
    """Images of one colour in four quarters, and the four levels, each a factor on its own."""
    levels = np.random.default_rng(seed).integers(20, 235, (n, 4))
    quarters = levels.reshape(n, 2, 2, 1).repeat(SIZE // 2, 1).repeat(SIZE // 2, 2).repeat(3, 3)
    return quarters.astype(np.uint8), levels


class Quarters(Small):
    """Codes an image by the mean of each of its quarters, or by a mixture of these."""

    def __init__(self, mixing):
        super().__init__()
        self.mixing = mixing

    def encode(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 2)[:, 0].flatten(1) @ self.mixing


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Data whose factors are known: the names of four continuous factors of drawn faces."""
    splits, factors = {}, {name: {} for name in ("yaw", "nod", "tilt", "light")}
    for seed, (split, n) in enumerate({"train": 200, "valid": 8, "test": 100}.items()):
        splits[split], levels = rectangles(n, seed)
        for name, column in zip(factors, levels.T, strict=True):
            factors[name][split] = column
    folder = tmp_path_factory.mktemp("drawn")
    light = {split: (images.mean((1, 2)) > 127)[:, :1] for split, images in splits.items()}
    write_data(folder, replace(SETTINGS, images=100), splits=splits, names=["Light"], attributes=light, factors=factors)
    return folder


def test_codes_of_known_factors_are_disentangled_and_mixtures_are_not(drawn, run, tmp_path):
    found = []
    mixture = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
    for i, mixing in enumerate((torch.eye(4), mixture)):
        (tmp_path / str(i)).mkdir()
        settings = replace(SETTINGS, images=100)
        results = evaluate(Quarters(mixing), run, settings, drawn, tmp_path / str(i), CPU, progress=False).results
        found.append({name: results.find(name).value for name in (*DISENTANGLEMENT, "probe_auroc")})
        assert results.find("mig").n == 100
    pure, mixed = found
    assert pure["mig"] > 0.7
    assert all(pure[name] > 0.9 for name in ("sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"))
    assert mixed["mig"] < 0.3
    assert mixed["sap"] < 0.5
    # a linear probe of the mean level does not mind a rotation
    assert min(pure["probe_auroc"], mixed["probe_auroc"]) > 0.99


def test_codes_that_are_not_finite_are_reported_not_raised(drawn, run, tmp_path):
    model = Quarters(torch.full((4, 4), torch.nan))
    settings = replace(SETTINGS, images=100)
    found = evaluate(model, run, settings, drawn, tmp_path, CPU, progress=False).results
    assert found.find("mig").note == "a code is not finite"
    assert found.find("probe_auroc").value is None


def test_long_codes_have_no_disentanglement(drawn, run, tmp_path):
    settings = replace(SETTINGS, images=100)
    found = evaluate(Quarters(torch.ones(4, 65)), run, settings, drawn, tmp_path, CPU, progress=False).results
    assert found.find("mig").note == "more than 64 latent dimensions"
