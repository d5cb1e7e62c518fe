import pytest
import torch

from tests.small_models import LinearVAE
from visage.errors import UserError
from visage.weights import load_weights, save_weights, weights_hash


def test_what_is_saved_is_loaded(tmp_path):
    model = LinearVAE()
    save_weights(tmp_path / "w.safetensors", model.state_dict())
    found = load_weights(tmp_path / "w.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_hash_is_that_of_names_types_and_values():
    model = LinearVAE()
    before = weights_hash(model)
    assert weights_hash(LinearVAE()) == before
    assert weights_hash(LinearVAE().to(torch.float64)) != before
    with torch.no_grad():
        model.weight[0] += 1e-6
    assert weights_hash(model) != before


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, LinearVAE().state_dict())
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], b"\x80\x04K\x01."):
        path.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"w\.safetensors cannot be read \(.*\): delete it and run `dvc repro` again"
        ):
            load_weights(path)
