import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel
from torch_fidelity import FeatureExtractorInceptionV3

from tests.small_models import make_images
from visage.errors import UserError
from visage.measures.sample_quality import (
    feature_figures,
    frechet_distance,
    inception_measures,
    kernel_distance,
    manifold_measures,
    memorization,
    mirrored,
    near_duplicates,
    nearest,
    nearest_other,
    nearest_training,
    pixel_distance,
    some_faces,
    thumbnails,
)

CPU = torch.device("cpu")


def normal(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d))


def whitened(n, d, seed):
    """n points whose mean is 0 and whose covariance is I, to the last digit."""
    x = normal(n, d, seed)
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def frechet_distance_of_few(a, b):
    """The same where features outnumber images, by singular values of a small matrix.

    tr (S1 S2)^(1/2) is the sum of singular values of the product of the factors of S1 and S2.
    """
    a, b = a.astype(float), b.astype(float)
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * cross


def test_frechet_distance_of_isotropic_gaussians():
    shift, scale = np.linspace(-1, 2, 6), 0.7
    expected = (shift**2).sum() + 6 * (1 - scale) ** 2
    found = frechet_distance(whitened(40, 6, 0), shift + scale * whitened(50, 6, 1))
    assert found == pytest.approx(expected, abs=1e-8)


def test_frechet_distance_of_gaussians_in_general():
    a, b = normal(30, 5, 0) @ normal(5, 5, 1), normal(30, 5, 2) @ normal(5, 5, 3) + 1
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_where_features_are_dead_or_outnumber_images():
    a, b = normal(30, 5, 0), 2 * normal(30, 5, 1) + 1
    dead = np.zeros((30, 40))
    assert frechet_distance(np.hstack([a, dead]), np.hstack([b, dead])) == pytest.approx(frechet_distance(a, b))
    a, b = normal(20, 64, 0), 2 * normal(20, 64, 1) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance_of_few(a, b), rel=1e-6)


def test_the_bias_of_the_frechet_distance():
    n, d = 600, 32
    expected = 2 * d / n + (d**2 + d) / (2 * n)
    assert frechet_distance(normal(n, d, 0), normal(n, d, 1)) == pytest.approx(expected, rel=0.1)


def test_kernel_distance_of_points():
    real, fake = np.tile([1.0, 0.0], (8, 1)), np.tile([0.0, 2.0], (10, 1))
    assert kernel_distance(real, fake, seed=0) == pytest.approx((1.5**3 + 3**3 - 2 * 1, 0))


def test_kernel_distance_is_unbiased():
    halves = np.split(normal(800, 8, 0), 2)
    mean, error = kernel_distance(*halves, seed=0)
    assert abs(mean) < 2 * error
    assert kernel_distance(*halves, seed=0) == (mean, error)
    assert kernel_distance(*halves, seed=1) != (mean, error)

    a, b = normal(60, 4, 1), normal(60, 4, 2) + 0.5
    aa, bb, ab = (polynomial_kernel(x, y, degree=3) for x, y in ((a, a), (b, b), (a, b)))
    pairs = 60 * 59
    expected = (aa.sum() - np.trace(aa)) / pairs + (bb.sum() - np.trace(bb)) / pairs - 2 * ab.mean()
    mean, error = kernel_distance(a, b, seed=0)
    assert mean == pytest.approx(expected, abs=3 * error / 10)  # 100 subsets


def test_the_spread_of_the_kernel_distance_is_its_standard_error():
    found = [kernel_distance(normal(40, 4, 2 * i), normal(40, 4, 2 * i + 1) + 0.7, seed=0) for i in range(40)]
    means, errors = np.array(found).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.3)


def test_manifold_measures_of_a_row_of_points():
    real, fake = np.arange(10.0)[:, None], np.arange(10.0)[:, None] + 0.5
    fake[-1] = 100
    found = manifold_measures(real, fake)
    # balls of real points hold 5, 5, 5, 6, 6, 6, 6, 5, 5, 5 fake ones
    assert found == pytest.approx({"precision": 0.9, "recall": 1.0, "density": 54 / 50, "coverage": 1.0})
    found = manifold_measures(real, fake + 1000)
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_manifold_measures_tell_fidelity_from_diversity():
    both = np.concatenate([normal(100, 4, 0), normal(100, 4, 1) + 50])
    dropped = manifold_measures(both, normal(200, 4, 2))  # one of two modes
    assert dropped["precision"] > 0.85
    assert dropped["recall"] == pytest.approx(0.5, abs=0.05)
    assert dropped["coverage"] == pytest.approx(0.5, abs=0.05)
    invented = manifold_measures(normal(200, 4, 2), both)
    assert invented["precision"] == pytest.approx(0.5, abs=0.05)
    assert invented["recall"] > 0.85


def test_density_and_coverage_of_one_distribution():
    n, k = 500, 5
    found = [manifold_measures(normal(n, 16, 2 * i), normal(n, 16, 2 * i + 1)) for i in range(4)]
    left_out = np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])  # Naeem et al. 2020, lemma 2
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(1 - left_out, abs=0.02)
    assert np.mean([f["density"] for f in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([f["precision"] - f["recall"] for f in found]) == pytest.approx(0, abs=0.03)


def test_blocks_change_no_manifold_measure():
    import sklearn

    real, fake = normal(300, 8, 0), normal(200, 8, 1)
    whole = manifold_measures(real, fake)
    with sklearn.config_context(working_memory=0.1):  # MiB: blocks of 43 rows
        assert manifold_measures(real, fake) == whole


def test_nearest_neighbours():
    queries, references = normal(20, 6, 0).astype(np.float32), normal(50, 6, 1).astype(np.float32)
    references[7] = queries[3]
    distances, rows = nearest(queries, references)
    every = cdist(queries, references)
    assert rows.tolist() == every.argmin(1).tolist()
    assert distances == pytest.approx(every.min(1))
    assert distances[3] == 0
    distances, rows = nearest_other(references)
    every = cdist(references, references) + np.diag(np.full(50, np.inf))
    assert rows.tolist() == every.argmin(1).tolist()
    assert distances == pytest.approx(every.min(1))


def test_memorization_finds_copies_and_nothing_in_fresh_draws():
    train, test, fresh = (normal(n, 8, seed) for n, seed in ((400, 0), (200, 1), (200, 2)))
    usual, rows = nearest_training(test, train)
    assert rows.tolist() == cdist(test, train).argmin(1).tolist()
    found = memorization(fresh, usual, train)
    assert found.ratio == pytest.approx(1, abs=0.1)
    assert found.p_value > 0.01
    chosen = np.random.default_rng(3).permutation(400)[:100]
    found = memorization(train[chosen] + 0.01 * normal(100, 8, 4), usual, train)
    assert found.ratio < 0.1
    assert found.p_value < 1e-10
    assert found.indices.tolist() == chosen.tolist()
    assert memorization(3 * fresh, usual, train).p_value > 0.99  # far from training images is no copying
    assert memorization(fresh, nearest_training(train[:9], train)[0], train) is None  # nothing to measure by


def test_memorization_of_mirrored_images():
    train, test = make_images(40, seed=0), make_images(20, seed=1)
    known, faces = thumbnails(train), thumbnails(test)
    copies = thumbnails(train[5:15, :, ::-1])
    usual, _ = nearest_training(faces, known, mirrored(faces))
    both = np.concatenate([known, mirrored(known)])
    assert usual == pytest.approx(cdist(faces, both).min(1), rel=1e-5)
    found = memorization(copies, usual, known, mirrored(copies))
    assert found.ratio < 1e-5
    assert found.indices.tolist() == list(range(5, 15))
    assert memorization(copies, nearest_training(faces, known)[0], known).ratio > 0.1
    assert (usual <= nearest_training(faces, known)[0]).all()


def test_figures_of_features_compare_equally_many_neighbours():
    real, fake = normal(40, 6, 0), normal(30, 6, 1) + 0.5
    identity = np.arange(40) // 2
    found = feature_figures(real, fake, identity=identity, compared=30, seed=3, network="the network")
    assert found["fd_attr128"].value == frechet_distance(real, fake)
    low, high = found["fd_attr128"].ci95
    assert low < found["fd_attr128"].value == pytest.approx((low + high) / 2)
    assert found["kd_attr128"].value == 1000 * kernel_distance(real, fake, seed=3)[0]
    neighbours = manifold_measures(some_faces(real, 30, seed=3), fake)
    assert {name: found[name].value for name in neighbours} == neighbours
    assert {figure.n for figure in found.values()} == {30}
    assert all("the network" in found[name].note for name in ("fd_attr128", *neighbours))
    few = feature_figures(real[:20], fake, identity=identity[:20], compared=30, seed=3, network="")
    assert few["coverage"].value == manifold_measures(some_faces(real[:20], 30, seed=3), fake[:20])["coverage"]
    assert few["coverage"].n == 20


def test_where_the_number_of_samples_matters_no_more_are_compared_than_told():
    real, fake = normal(40, 6, 0), normal(30, 6, 1) + 0.5
    found = feature_figures(real, fake, identity=np.arange(40), compared=12, seed=3, network="")
    assert found["fd_attr128"].value == frechet_distance(real, fake[:12])
    assert found["fd_attr128"].n == found["recall"].n == 12
    assert found["kd_attr128"].value == 1000 * kernel_distance(real, fake, seed=3)[0]  # unbiased, whatever n
    assert found["kd_attr128"].n == 30


def test_too_few_faces_have_no_neighbourhoods_and_say_so():
    found = feature_figures(
        normal(5, 6, 0), normal(30, 6, 1), identity=np.arange(5), compared=30, seed=3, network="the network"
    )
    assert set(found.values()) == {"fewer than 6 samples or test faces"}


def test_the_interval_of_a_distance_knows_who_is_on_the_faces():
    """Four images of each person, all alike: the mean is as unsure as with a quarter of the faces."""
    people, fake = normal(40, 3, 0), np.tile(normal(2, 3, 9), (300, 1)) + 3
    real = people.repeat(4, axis=0)
    widths = []
    for identity in (np.arange(160) // 4, np.full(160, -1)):
        low, high = feature_figures(real, fake, identity=identity, compared=600, seed=1, network="")["fd_attr128"].ci95
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.4)


def test_near_duplicates():
    real, samples = normal(400, 4, 0), normal(400, 4, 1)
    assert near_duplicates(real, real) == 0.01
    assert near_duplicates(samples, real) < 0.03
    samples[:100] = samples[100:200] + 1e-6
    assert near_duplicates(samples, real) == pytest.approx(0.5, abs=0.02)
    assert near_duplicates(np.zeros((50, 4)), real) == 1
    few, fewer = near_duplicates(samples[200:240], real), near_duplicates(samples[200:240], real[:40])
    assert few == fewer  # the other 360 real images would lie closer to each other


def test_thumbnails_are_means_of_light():
    colours = np.array([[10, 20, 30], [255, 0, 128]], np.uint8)
    flat = np.broadcast_to(colours[:, None, None], (2, 32, 32, 3))
    expected = np.tile(colours / 255, (1, 256))
    assert thumbnails(flat) == pytest.approx(expected, abs=1e-6)
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::4] = 200  # every fourth column: aliasing would lose them
    inner = thumbnails(stripes).reshape(16, 16, 3)[:, 1:-1]
    assert inner == pytest.approx(np.full_like(inner, 50 / 255), abs=1e-6)
    small = make_images(300, seed=0)  # 16 x 16, more than a chunk
    assert thumbnails(small) == pytest.approx(small.reshape(300, 768) / 255, abs=1e-6)
    large = make_images(3, seed=1, size=64)
    assert mirrored(thumbnails(large)) == pytest.approx(thumbnails(large[:, :, ::-1]), abs=1e-6)


def test_pixel_distance_is_the_distance_in_the_space_of_the_images():
    codes, others = normal(80, 3, 0), 2 * normal(80, 3, 1) + 1
    basis = np.linalg.qr(normal(768, 3, 2))[0].T
    found = pixel_distance(0.5 + codes @ basis, 0.5 + others @ basis)
    assert found == pytest.approx(frechet_distance(codes, others), rel=1e-6)
    *most, last = np.linalg.qr(normal(768, 65, 3))[0].T
    real = normal(100, 64, 4) @ np.array(most)
    outside = 9 * normal(100, 1, 5) * last  # a direction in which real images do not vary
    assert pixel_distance(real, real + outside) == pytest.approx(0, abs=1e-6)
    real, brighter = (thumbnails(make_images(30, seed=i) // 2 + 100 * i) for i in (0, 1))
    same = thumbnails(make_images(30, seed=2) // 2)
    assert pixel_distance(real, brighter) > 10 * pixel_distance(real, same)


class Untrained(FeatureExtractorInceptionV3):
    """torch-fidelity's extractor with random weights in place of those of the file."""

    def load_state_dict(self, weights, *args, **kwargs):
        return None


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """An extractor, and the file of its weights."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    extractor = Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    for layer in extractor.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # PyTorch's own would make all features alike
    torch.save(extractor.state_dict(), path)
    return extractor, path


@pytest.mark.long
def test_inception_measures_are_those_of_its_features(inception):
    extractor, path = inception
    images = make_images(4, seed=0)
    real, fake = [0, 0, 1, 1, 1], [2, 3, 2, 3]
    found = inception_measures(images[real], images[fake], path, CPU)
    with torch.no_grad():
        features = extractor(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()
    assert found["fid"] == pytest.approx(frechet_distance_of_few(features[real], features[fake]), rel=1e-4)
    expected, _ = kernel_distance(features[fake], features[real], seed=2020)
    assert found["kid"] == pytest.approx(expected, rel=0.01)  # torch-fidelity computes it in single precision
    assert found["inception_score"] == 1  # four parts of one sample each: no sample differs from its part


def test_inception_weights_that_cannot_be_had(tmp_path, monkeypatch):
    images = make_images(4, seed=0)
    with pytest.raises(UserError, match=r"evaluate\.inception is .*, which is no file"):
        inception_measures(images, images, tmp_path / "none.pth", CPU)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save(np.random.default_rng, tmp_path / "code.pth")  # what only an unsafe loader would open
    (tmp_path / "page.pth").write_bytes(b"<html>")
    for name in ("other.pth", "code.pth", "page.pth"):
        with pytest.raises(UserError, match=rf"evaluate\.inception is .*{name}, which does not hold"):
            inception_measures(images, images, tmp_path / name, CPU)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens: no request leaves the machine
    with pytest.raises(UserError, match=r"evaluate\.inception is download, but .* cannot be had"):
        inception_measures(images, images, None, CPU)
