import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import visage as package
from tests.small_data import SETTINGS
from visage.errors import UserError
from visage.files import read_json, write_json
from visage.maths.units import bits_per_dim
from visage.results import TEST, PerImage, Results, read
from visage.using.directions import Directions

SIZE = 32


@pytest.fixture(scope="module")
def load(project):
    """A function that loads a run of the project, each once."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = package.load(project / "runs" / f"{name}-{SIZE}-0", device="cpu")
        return found[name]

    return get


def measured_faces(project):
    per_image = PerImage.load(project / "runs" / f"vae-{SIZE}-0" / "evaluate" / "scores.npz")
    test = np.load(project / "data" / "processed" / str(SIZE) / "test.npy")
    return per_image, test[per_image.rows[TEST]]


def tiles(picture, n, columns):
    """The images of a grid, at their own size."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    side = (pixels.shape[1] + 2) // columns
    factor = (side - 2) // SIZE
    rows, cols = np.divmod(np.arange(n), columns)
    return np.stack(
        [
            pixels[r * side : r * side + side - 2 : factor, c * side : c * side + side - 2 : factor]
            for r, c in zip(rows, cols, strict=True)
        ]
    )


def test_samples_begin_with_those_of_the_page(load, project):
    page = tiles(project / "runs" / f"vae-{SIZE}-0" / "evaluate" / "samples.png", SETTINGS.samples, 8)
    np.testing.assert_array_equal(load("vae").sample(SETTINGS.samples, seed=SETTINGS.seed), page)


def test_a_sample_does_not_depend_on_how_many_are_drawn(load):
    model = load("vae")
    many = model.sample(260)
    assert many.shape == (260, SIZE, SIZE, 3)
    assert many.dtype == np.uint8
    np.testing.assert_array_equal(model.sample(3), many[:3])
    assert (model.sample(3, seed=1) != many[:3]).any()
    assert model.sample(0).shape == (0, SIZE, SIZE, 3)


def test_scores_are_those_of_the_evaluation(load, project):
    per_image, faces = measured_faces(project)
    scores = load("vae").scores(faces)
    assert list(scores) == [name for name in per_image.scores[TEST] if name in scores]
    for name, values in scores.items():
        np.testing.assert_allclose(values, per_image.scores[TEST][name], rtol=1e-6, err_msg=name)
    assert {"nll", "recon"} <= scores.keys()


def test_log_prob_is_in_nats_and_says_what_it_is(load, project):
    _, faces = measured_faces(project)
    model = load("vae")
    found = model.likelihood(faces)
    np.testing.assert_array_equal(model.log_prob(faces), found.nats)
    np.testing.assert_allclose(found.nats, -found.parts["distortion"] - found.parts["rate"])
    bits = bits_per_dim(torch.from_numpy(model.log_prob(faces)), faces[0].size)
    np.testing.assert_allclose(model.scores(faces)["nll"], bits.numpy())
    kinds = {name: load(name).likelihood_kind for name in ("vae", "glow", "dcgan")}
    assert kinds == {"vae": "lower bound", "glow": "exact", "dcgan": None}
    assert (model.log_prob(faces, seed=1) != model.log_prob(faces)).all()


def test_percentiles_are_ranks_among_held_out_faces(load, project):
    per_image, _ = measured_faces(project)
    values = np.sort(per_image.scores[TEST]["nll"])
    found = load("vae").percentiles("nll", np.array([values[0] - 1, values[4], values[-1] + 1]))
    np.testing.assert_allclose(found, [0, 100 * 4 / len(values), 100])
    with pytest.raises(UserError, match="has no score foo of held-out faces"):
        load("vae").percentiles("foo", values)


def test_images_go_through_the_code_and_back(load):
    model, faces = load("vae"), np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    codes = model.encode(faces)
    assert codes.shape == (3, model.config.settings["latent_dim"])
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(faces))
    np.testing.assert_array_equal(load("glow").decode(load("glow").encode(faces)), faces)  # a flow is invertible


def test_a_walk_begins_and_ends_at_its_images(load):
    model, faces = load("vae"), np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    walk = model.interpolate(faces[0], faces[1], frames=5)
    assert walk.shape == (5, SIZE, SIZE, 3)
    np.testing.assert_allclose(walk[[0, -1]].astype(int), model.reconstruct(faces), atol=1)
    np.testing.assert_allclose(
        model.interpolate(frames=2, seed=3).astype(int), model.decode(model.prior(2, seed=3)), atol=1
    )


def test_directions_are_those_that_made_the_codes():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 6)).astype(np.float32)
    y = rng.integers(0, 2, (4000, 3)).astype(np.uint8)
    y[:, 1] |= y[:, 0] & rng.integers(0, 2, 4000, np.uint8)  # attributes that go together are told apart
    constant = np.ones((4000, 1), np.uint8)
    codes = (y @ truth + 0.1 * rng.normal(size=(4000, 6))).astype(np.float32)
    found = Directions.fit(codes, np.concatenate([y, constant], axis=1), ["a", "b", "c", "always"])
    assert found.names == ("a", "b", "c")
    np.testing.assert_allclose(found.attributes, truth, atol=0.03)
    np.testing.assert_allclose(found.of("b"), found.attributes[1])
    variances = np.linalg.eigvalsh(np.cov(codes.T))[::-1]
    np.testing.assert_allclose(np.linalg.norm(found.principal, axis=1) ** 2, variances, rtol=1e-3)
    with pytest.raises(UserError, match="there is no attribute always: name one of a, b, c"):
        found.of("always")


def test_directions_survive_a_file(tmp_path):
    rng = np.random.default_rng(0)
    found = Directions.fit(rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 2, (20, 2)), ["a", "b"])
    found.save(tmp_path / "directions.npz")
    again = Directions.load(tmp_path / "directions.npz")
    assert again.names == found.names
    np.testing.assert_array_equal(again.attributes, found.attributes)
    (tmp_path / "directions.npz").write_bytes(b"PK broken")
    with pytest.raises(UserError, match=r"directions.npz cannot be read"):
        Directions.load(tmp_path / "directions.npz")


def test_an_edit_moves_the_code_along_the_direction(load):
    model, faces = load("vae"), np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(model.edit(faces, {"Smiling": 0.0}), model.reconstruct(faces))
    moved = model.decode(model.encode(faces) + 2 * model.directions.of("Smiling") - model.directions.of("Male"))
    np.testing.assert_array_equal(model.edit(faces, {"Smiling": 2.0, "Male": -1.0}), moved)


def test_wanted_attributes_reach_the_model(load):
    model = load("conditional_gan")
    assert "Smiling" in model.attributes
    with_, without = (model.sample(4, attributes={"Smiling": has}) for has in (True, False))
    y = torch.zeros(4, len(model.attributes))
    y[:, model.attributes.index("Smiling")] = 1
    with torch.no_grad():
        x = model.model.sample_given(y, package.using.loaded.torch_generator(0, "samples 0"))
    np.testing.assert_array_equal(with_, package.using.loaded.to_pixels(x))
    assert (with_ != without).any()


def test_guidance_and_variants(load):
    model = load("conditional_diffusion")
    weak, strong = (model.sample(2, attributes={"Smiling": True}, guidance=w) for w in (0.0, 4.0))
    assert (weak != strong).any()
    glow = load("glow")
    assert "T 0.7" in glow.variants
    assert (glow.sample(2, variant="T 0.7") != glow.sample(2, variant="T 1")).any()
    np.testing.assert_array_equal(glow.sample(2, variant="T 1"), glow.sample(2))


def test_a_hidden_part_is_filled_in_and_the_rest_stays(load):
    faces = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    filled, hidden = load("mae").inpaint(faces)
    assert 0 < hidden.mean() < 1
    np.testing.assert_array_equal(filled[~hidden], faces[~hidden])


def test_other_settings_reach_the_model(project):
    run = project / "runs" / f"conditional_diffusion-{SIZE}-0"
    changed = package.load(run, device="cpu", settings={"sampling_steps": 3})
    assert changed.model.config.sampling_steps == 3
    with pytest.raises(UserError, match="has no setting step: name one of attributes, p_uncond"):
        package.load(run, settings={"step": 3})
    with pytest.raises(UserError, match="sampling_steps: Input should be greater than or equal to 1"):
        package.load(run, settings={"sampling_steps": 0})
    with pytest.raises(UserError, match="its weights depend on width: change other settings"):
        package.load(run, settings={"width": 32})


def test_what_a_model_cannot_do_has_its_reason(load):
    face = np.zeros((SIZE, SIZE, 3), np.uint8)
    with pytest.raises(UserError, match="dcgan-32-0 cannot reconstruct: a GAN without an encoder cannot reconstruct"):
        load("dcgan").reconstruct(face)
    with pytest.raises(UserError, match="dcgan-32-0 has no likelihood: a GAN defines no density"):
        load("dcgan").log_prob(face)
    with pytest.raises(UserError, match="mae-32-0 cannot draw samples: "):
        load("mae").sample(1)
    with pytest.raises(UserError, match="vae-32-0 cannot translate: "):
        load("vae").translate(face)
    with pytest.raises(UserError, match="vae-32-0 cannot sample with attributes: "):
        load("vae").sample(1, attributes={"Smiling": True})
    with pytest.raises(UserError, match="knows no attribute Foo: name some of Male"):
        load("conditional_gan").sample(1, attributes={"Foo": True})
    with pytest.raises(UserError, match="has no variant 'x': name one of 'T 1'"):
        load("glow").sample(1, variant="x")
    with pytest.raises(UserError, match="a code of vae-32-0 has 32 numbers, not 5"):
        load("vae").decode(np.zeros((1, 5)))
    with pytest.raises(UserError, match="translates to Black_Hair or to Blond_Hair, not to Foo"):
        load("cyclegan").translate(face, "Foo")


def test_a_run_is_found_by_its_name_and_by_its_folders(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project / "data")
    for name in (f"vae-{SIZE}-0", f"vae-{SIZE}", project / "runs" / f"vae-{SIZE}-0" / "train"):
        assert package.load(name, device="cpu").place.project == project.resolve()
    copy = tmp_path / "elsewhere"
    shutil.copytree(project / "runs" / f"vae-{SIZE}-0" / "train", copy)
    monkeypatch.chdir(tmp_path)
    moved = package.load(copy, device="cpu")
    assert moved.place.project is None
    assert moved.sample(2).shape == (2, SIZE, SIZE, 3)
    with pytest.raises(UserError, match="is in no project"):
        package.load(f"vae-{SIZE}-0")


def test_the_lowest_seed_speaks_for_a_label(project, tmp_path, monkeypatch):
    root = tmp_path / "project"
    shutil.copytree(project, root, ignore=shutil.ignore_patterns("data"))
    for seed in (2, 10):
        folder = root / "runs" / f"dcgan-{SIZE}-{seed}"
        shutil.copytree(root / "runs" / f"dcgan-{SIZE}-0", folder)
        about = read_json(folder / "train" / "run.json")
        about["config"] |= {"name": folder.name, "seed": seed}
        write_json(folder / "train" / "run.json", about)
    shutil.rmtree(root / "runs" / f"dcgan-{SIZE}-0")
    monkeypatch.chdir(root)
    assert package.load(f"dcgan-{SIZE}").name == f"dcgan-{SIZE}-2"


def test_damaged_and_missing_runs_are_named(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match="no trained run is called vae-99: name one of conditional_diffusion-32-0"):
        package.load("vae-99")
    with pytest.raises(UserError, match="it is no run's name: `visage runs` lists"):
        package.load("Vae 64")
    with pytest.raises(UserError, match=r"params.yaml is a file: name a run"):
        package.load("params.yaml")
    with pytest.raises(UserError, match=r"holds no run.json: name a folder of runs/"):
        package.load(tmp_path)
    with pytest.raises(UserError, match="finds no device tpu9 here"):
        package.load(f"vae-{SIZE}", device="tpu9")
    copy = tmp_path / "broken"
    shutil.copytree(project / "runs" / f"vae-{SIZE}-0" / "train", copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        package.load(copy)


def test_results_come_along(load, project):
    found = load("vae").results
    assert found == read(project / "runs" / f"vae-{SIZE}-0" / "evaluate" / "results.json", Results)
    assert load("dcgan").results is None
