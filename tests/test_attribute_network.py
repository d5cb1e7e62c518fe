import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from visage.attribute_network import (
    FEATURES,
    NO_ATTRIBUTES,
    About,
    AttributeNetwork,
    TrainedAttributeNetwork,
    load_attribute_network,
    make_attribute_networks,
    train_attribute_network,
)
from visage.config import AttributeNetworkConfig
from visage.data.arrays import Faces, load_faces
from visage.errors import UserError
from visage.files import read_typed
from visage.inference.batches import batches
from visage.weights import weights_hash

CPU = torch.device("cpu")
NAMES = ["Constant", "Bright", "Coin", "Never"]
SIZE = 16


def faces(n, seed):
    """Flat images: attribute 1 makes them bright, attribute 2, a coin of its own, is about chance; 0 and 3 constant."""
    rng = np.random.default_rng(seed)
    bright, coin = rng.integers(0, 2, (2, n)).astype(np.uint8)
    noise = rng.integers(0, 100, (n, SIZE, SIZE, 3))
    images = (noise + 100 * bright[:, None, None, None]).astype(np.uint8)
    columns = np.stack([np.ones_like(bright), bright, coin, np.zeros_like(bright)], 1)
    return Faces(
        images=images,
        attributes=columns,
        names=NAMES,
        image_id=np.array([f"{i}.jpg" for i in range(n)]),
        identity=np.full(n, -1, np.int32),
        factors=np.zeros((n, 0), np.float32),
        factor_names=[],
    )


def train(seed=0, kimg=0.64, lr=0.01, batch_size=16):
    return train_attribute_network(
        faces(64, 0), faces(16, 1), kimg=kimg, batch_size=batch_size, lr=lr, seed=seed, device=CPU
    )


def save(split, part, folder):
    (folder / str(SIZE)).mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    np.save(folder / str(SIZE) / f"{split}.npy", part.images)
    values = dataclasses.asdict(part) | {"names": np.array(part.names, np.str_), "factor_names": np.array([], np.str_)}
    del values["images"]
    np.savez(folder / "labels" / f"{split}.npz", **values)


def config(**changes):
    settings = {"sizes": (SIZE,), "kimg": 0.64, "batch_size": 16}
    return AttributeNetworkConfig(**(settings | {"lr": 0.01, "seed": 0} | changes))


@pytest.fixture(scope="module")
def processed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processed")
    for i, (split, n) in enumerate((("train", 64), ("valid", 16), ("test", 40))):
        save(split, faces(n, i), folder)
    return folder


@pytest.fixture(scope="module")
def made(processed) -> tuple[Path, dict]:
    """The folder that the stage makes, and the figures that it reports."""
    folder = processed.parent / f"{processed.name}-network"
    return folder, make_attribute_networks(config(), processed, folder, CPU)


def ask(function, images):
    with torch.no_grad():
        return torch.cat([function(x) for x in batches(images, 7, CPU)]).numpy()


def test_the_answers_are_linear_in_the_features():
    network = AttributeNetwork(["a", "b", "c"]).eval()
    x = torch.rand(5, 3, 32, 32) * 2 - 1
    features = network.features(x)
    assert features.shape == (5, FEATURES)
    assert (features >= 0).all()
    torch.testing.assert_close(network(x), features @ network.head.weight.T + network.head.bias)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_training_tells_what_can_be_told_and_no_more():
    network, test = train(), faces(200, 2)
    assert network.names == ("Bright", "Coin")
    assert not network.training
    logits = ask(network, test.images)
    assert roc_auc_score(test.attributes[:, 1], logits[:, 0]) > 0.99
    assert roc_auc_score(test.attributes[:, 2], logits[:, 1]) == pytest.approx(0.5, abs=0.15)


def test_the_seed_decides_the_network_and_nothing_else_does():
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first = weights_hash(train(kimg=0.1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert weights_hash(train(kimg=0.1)) == first
    assert weights_hash(train(kimg=0.1, seed=1)) != first
    assert weights_hash(train(kimg=0.1, batch_size=1000)) == weights_hash(
        train(kimg=0.1, batch_size=64)
    )  # all there are


def test_the_best_moment_on_validation_images_is_kept():
    # labels that mean the opposite in validation: the longer the training, the worse, so the first moment is the best
    valid = faces(64, 1)
    valid = dataclasses.replace(valid, attributes=1 - valid.attributes)
    settings = {"batch_size": 16, "lr": 0.01, "seed": 0, "device": CPU}
    network = train_attribute_network(faces(64, 0), valid, kimg=0.64, **settings)
    y = torch.from_numpy(valid.columns(network.names)).float()

    def loss(network):
        logits = torch.from_numpy(ask(network, valid.images))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, y)

    chosen_by_other_images = train_attribute_network(faces(64, 0), faces(64, 1), kimg=0.64, **settings)
    assert loss(network) < loss(chosen_by_other_images)


def about(folder):
    return read_typed(folder / str(SIZE) / "about.json", About, "")


def test_what_is_written_is_what_is_loaded(made, processed):
    folder, _ = made
    found = load_attribute_network(folder, SIZE, CPU)
    assert isinstance(found, TrainedAttributeNetwork)
    assert found.names == ("Bright", "Coin")
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    assert weights_hash(found.network) == found.weights_hash
    images = load_faces("train", SIZE, processed).images
    assert found.train_features == pytest.approx(ask(found.network.features, images), abs=1e-5)
    assert found.train_features.dtype == np.float32
    assert {path.name for path in folder.iterdir()} == {"16"}


def test_its_description_says_how_well_it_recognises_test_faces(made, processed):
    folder, figures = made
    found, test = load_attribute_network(folder, SIZE, CPU), load_faces("test", SIZE, processed)
    logits = ask(found.network, test.images)
    each = {name: roc_auc_score(test.columns([name])[:, 0], logits[:, i]) for i, name in enumerate(found.names)}
    mean = np.mean(list(each.values()))
    assert about(folder) == About(
        why_not="",
        names=["Bright", "Coin"],
        weights_hash=found.weights_hash,
        test_auroc=pytest.approx(each),
        auroc=pytest.approx(mean),
        n=40,
        kimg=0.64,
    )
    assert figures == {"16": {"auroc": pytest.approx(mean, abs=1e-6)}}


def test_the_same_settings_give_the_same_files(made, processed, tmp_path):
    make_attribute_networks(config(), processed, tmp_path / "again", CPU)
    for path in made[0].rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made[0])).read_bytes(), path.name


def test_an_attribute_that_all_test_faces_share_is_not_scored(tmp_path):
    for split in ("train", "valid"):
        save(split, faces(16, 0), tmp_path / "processed")
    test = faces(16, 1)
    test.attributes[:, 2] = 1
    save("test", test, tmp_path / "processed")
    make_attribute_networks(config(kimg=0.016), tmp_path / "processed", tmp_path / "network", CPU)
    found = about(tmp_path / "network")
    assert found.names == ["Bright", "Coin"]
    assert list(found.test_auroc) == ["Bright"]
    assert found.auroc == found.test_auroc["Bright"]


def test_images_without_attributes_have_no_network(tmp_path):
    part = faces(8, 0)
    bare = dataclasses.replace(part, attributes=part.attributes[:, :0], names=[])
    constant = dataclasses.replace(part, attributes=np.ones((8, 1), np.uint8), names=["Constant"])
    for i, without in enumerate((bare, constant)):
        for split in ("train", "valid", "test"):
            save(split, without, tmp_path / str(i))
        out = tmp_path / f"network{i}"
        assert make_attribute_networks(config(), tmp_path / str(i), out, CPU) == {}
        assert load_attribute_network(out, SIZE, CPU) == NO_ATTRIBUTES
        assert about(out) == About(NO_ATTRIBUTES, [], "", {}, None, 0, 0.0)
        assert [path.name for path in (out / str(SIZE)).iterdir()] == ["about.json"]


def test_files_that_do_not_belong_together(made, tmp_path):
    folder, _ = made
    with pytest.raises(UserError, match=r"32/about\.json is missing: run `dvc repro attribute_network`"):
        load_attribute_network(folder, 32, CPU)
    other = tmp_path / "other"
    (other / "16").mkdir(parents=True)
    (other / "16" / "about.json").write_bytes((folder / "16" / "about.json").read_bytes())
    with pytest.raises(UserError, match="is incomplete"):
        load_attribute_network(other, SIZE, CPU)
    (other / "16" / "train_features.npy").write_bytes((folder / "16" / "train_features.npy").read_bytes())
    weights = load_file(folder / "16" / "network.safetensors")
    save_file(weights | {"head.bias": weights["head.bias"] + 1}, other / "16" / "network.safetensors")
    with pytest.raises(UserError, match=r"does not hold the weights that .* names"):
        load_attribute_network(other, SIZE, CPU)
    save_file({"head.bias": weights["head.bias"]}, other / "16" / "network.safetensors")
    with pytest.raises(UserError, match="is of another network"):
        load_attribute_network(other, SIZE, CPU)


@pytest.mark.parametrize("name", ["network.safetensors", "train_features.npy"])
def test_a_damaged_file_is_named(made, tmp_path, name):
    shutil.copytree(made[0], tmp_path / "copy")
    path = tmp_path / "copy" / str(SIZE) / name
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): .*run `dvc repro"):
            load_attribute_network(tmp_path / "copy", SIZE, CPU)


def test_a_failure_leaves_the_old_networks(processed, tmp_path):
    out = tmp_path / "network"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(UserError, match=r"add 32 to preprocess\.sizes"):
        make_attribute_networks(config(sizes=(SIZE, 32)), processed, out, CPU)
    assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["network"]
