import copy
import io
import re
import shutil

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage import params as parameters
from visage.config import AttributeNetworkConfig, DownloadConfig, EvaluateConfig, PreprocessConfig, RunConfig
from visage.errors import UserError


@pytest.fixture
def raw():
    return YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.fixture
def resolve(tmp_path):
    """Write a changed params.yaml and take it all the way to configs; what each run is, by name."""

    def go(raw):
        path = tmp_path / "params.yaml"
        YAML().dump(raw, path)
        params = parameters.load(path)
        runs = parameters.resolve(params, ROOT / "src")
        parameters.write_configs(params, runs, tmp_path / "configs")
        return {run.name: run for run in runs}

    return go


def put(raw, dotted, value):
    *path, last = dotted.split(".")
    for key in path:
        raw = raw[key]
    raw[last] = value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.kimgg", 3, ["train", "kimgg", "unknown", "did you mean kimg?"]),
        ("data.sauce", "celeba", ["data.sauce", "unknown", "did you mean source?"]),
        ("bata", 1, ["bata", "unknown", "did you mean data?"]),
        ("train.lr_final", "1e-3", ["lr_final", "number", "'1e-3'"]),
        ("train.weight_decay", -1000.0, ["weight_decay", "greater than", "-1000.0"]),
        ("recipes.vae.demo.train.lr", 1000.0, ["lr", "less than 1", "1000.0"]),
        ("train.batch_size", 0, ["batch_size", "2"]),
        ("train.flip", "off", ["flip", "boolean", "'off'"]),
        ("scale", "medium", ["scale", "demo", "full", "medium"]),
        ("runs", ["vea-32"], ["runs", "vea", "did you mean vae?"]),
        ("runs", ["vae_32"], ["runs", "vae_32", "<recipe>-<size>"]),
        ("runs", ["vae-32", "vae-32"], ["vae-32", "twice"]),
        ("runs", ["vae-48"], ["vae-48", "preprocess.sizes"]),
        ("runs", ["latent_diffusion-64"], ["latent_diffusion-64", "autoencoder-64", "latent_sizes"]),
        ("runs", ["autoencoder-32"], ["autoencoder-32", "latent_sizes", "twice"]),
        ("runs", ["vae-32-0"], ["vae-32-0", "<recipe>-<size>"]),
        ("latent_sizes", [48], ["autoencoder-48", "preprocess.sizes"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 3, 3], ["seeds", "3 stands there twice"]),
        ("seeds", [0, -1], ["seeds", "greater than or equal to 0", "-1"]),
        ("seeds", 0, ["seeds", "list"]),
        ("recipes.conditional_gan.demo.model.attributes", ["Smilling"], ["Smilling", "did you mean Smiling?"]),
        ("recipes.cyclegan.demo.model.domain_b", "Black_Hair", ["domain_a", "domain_b", "Black_Hair"]),
        ("recipes.ddpm.demo.model.multipliers", [], ["ddpm", "multipliers"]),
        ("recipes.stylegan.demo.train.lr_factors", {"generator": 0.0}, ["lr_factors", "greater than 0"]),
        ("data.source", "folder", ["data", "data.root"]),
        ("preprocess.crop.right", 170, ["crop", "square"]),
        ("preprocess.crop.bottom", 230, ["crop", "218"]),
        ("model.likelihood", "gausian", ["likelihood", "gausian", "gaussian"]),
        ("model.beta", -1.0, ["beta", "0"]),
        ("recipes.vae.uses", ["betaa"], ["recipes.vae.uses", "betaa", "did you mean beta?"]),
        ("recipes.vae.model", "vea", ["recipes.vae", "vea.py"]),
        ("recipes.vae.demo.model.widht", 3, ["recipes.vae.demo.model", "widht", "did you mean width?"]),
        ("recipes.vae.demo.at32", {}, ["recipes.vae.demo", "at32", "at_<size>"]),
        ("recipes.dcgan.demo.model.latent_dim", 0, ["dcgan", "latent_dim"]),
        ("evaluate.draws", 0, ["evaluate", "draws"]),
        ("evaluate.importance_draws", 0, ["evaluate", "importance_draws"]),
        ("evaluate.inception", True, ["evaluate", "inception", "string"]),
        ("attribute_network.kimg", 0, ["attribute_network", "kimg", "greater than 0"]),
        ("attribute_network.epochs", 3, ["attribute_network", "epochs", "unknown"]),
        ("runtime.device", "gpu", ["runtime", "device", "cuda"]),
        ("data.folder.test_share", 0.95, ["valid_share + test_share"]),
    ],
)
def test_mistakes_are_one_line_that_names_them(raw, resolve, key, value, words):
    put(raw, key, value)
    with pytest.raises(UserError) as error:
        resolve(raw)
    message = str(error.value)
    assert "params.yaml" in message
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_a_folder_without_attributes_cannot_train_what_needs_them(raw, resolve):
    raw |= {"runs": ["vae-32", "conditional_gan-32"], "latent_sizes": []}
    raw["data"] |= {"source": "folder", "root": "photos"}
    with pytest.raises(UserError, match=r"conditional_gan-32 needs attributes .*data.folder.attributes"):
        resolve(raw)
    raw["data"]["folder"]["attributes"] = "attributes.csv"  # which ones it has is known once it is read
    assert resolve(raw)["conditional_gan-32-0"]


def test_latent_sizes_are_trained_one_stage_after_the_other(raw, resolve):
    raw |= {"runs": ["vae-32"], "latent_sizes": [32, 64]}
    runs = resolve(raw)
    assert list(runs) == [
        "vae-32-0", "autoencoder-32-0", "latent_diffusion-32-0", "autoencoder-64-0", "latent_diffusion-64-0"
    ]  # fmt: skip
    assert runs["latent_diffusion-64-0"].first_stage == runs["autoencoder-64-0"]
    assert runs["vae-32-0"].first_stage is None


def test_every_run_is_trained_once_for_each_seed(raw, resolve):
    raw |= {"runs": ["vae-32"], "latent_sizes": [32]}
    alone = resolve(copy.deepcopy(raw))
    runs = resolve(raw | {"seeds": [0, 2]})
    assert list(runs) == [
        "vae-32-0", "vae-32-2", "autoencoder-32-0", "autoencoder-32-2", "latent_diffusion-32-0", "latent_diffusion-32-2"
    ]  # fmt: skip
    assert {name: (run.label, run.seed) for name, run in runs.items() if "vae" in name} == {
        "vae-32-0": ("vae-32", 0), "vae-32-2": ("vae-32", 2)
    }  # fmt: skip
    assert runs["latent_diffusion-32-2"].first_stage == runs["autoencoder-32-2"]
    assert {name: runs[name] for name in alone} == alone  # a new seed changes nothing of the others


def test_the_seed_of_data_and_evaluation_is_none_of_the_trainings(raw, resolve, tmp_path):
    before = resolve(copy.deepcopy(raw))
    assert resolve(raw | {"seed": 7}) == before
    kinds = (DownloadConfig, EvaluateConfig, AttributeNetworkConfig)
    assert [kind.load(tmp_path / "configs").seed for kind in kinds] == [7, 7, 7]


def test_the_attribute_network_is_made_for_every_size_and_label(raw, resolve, tmp_path):
    resolve(raw | {"seeds": [0, 1]})
    network = AttributeNetworkConfig.load(tmp_path / "configs")
    arrays = PreprocessConfig.load(tmp_path / "configs")
    assert (network.sizes, network.runs) == (arrays.sizes, arrays.runs)
    assert {"vae-64", "latent_diffusion-32"} < set(network.runs)
    assert (network.kimg, network.batch_size, network.lr) == tuple(raw["attribute_network"].values())


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("attribute_network.kimg", 0.5, {"attribute_network.json"}),
        ("evaluate.suite_images", 7, {"evaluate.json"}),
        ("seeds", [0, 1], {"report.json", "vae-32-1.json"}),
        ("model.beta", 0.5, set()),
    ],
)
def test_a_parameter_changes_the_configs_of_what_depends_on_it(raw, resolve, tmp_path, key, value, changed):
    raw |= {"runs": ["vae-32"], "latent_sizes": []}

    def written():
        resolve(raw)
        return {path.name: path.read_bytes() for path in (tmp_path / "configs").glob("*.json")}

    before = written()
    put(raw, key, value)
    after = written()
    assert {name for name in after if after[name] != before.get(name)} == changed


def test_nothing_to_train_is_said(raw, resolve):
    raw |= {"runs": [], "latent_sizes": []}
    with pytest.raises(UserError, match="nothing to train"):
        resolve(raw)


def test_missing_keys_and_files_are_named(raw, resolve, tmp_path):
    del raw["train"]["flip"]
    with pytest.raises(UserError, match=r"train.*flip: this key is missing"):
        resolve(raw)
    with pytest.raises(UserError, match="missing"):
        parameters.load(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("seed: [1\nruns: 2")
    with pytest.raises(UserError, match=r"broken.yaml, line"):
        parameters.load(tmp_path / "broken.yaml")


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_every_shipped_recipe_is_valid_at_every_size(raw, resolve, scale):
    raw["scale"] = scale
    raw["preprocess"]["sizes"] = raw["latent_sizes"] = [32, 64]
    single = [recipe for recipe in raw["recipes"] if recipe not in parameters.LATENT_RECIPES]
    raw["runs"] = [f"{recipe}-{size}" for recipe in single for size in (32, 64)]
    assert {name.partition("-")[0] for name in resolve(raw)} == set(raw["recipes"])


def test_beta_reaches_the_beta_vae_alone(raw, resolve):
    before = resolve(copy.deepcopy(raw))
    put(raw, "model.beta", 1.2)
    after = resolve(raw)
    assert {name for name in before if before[name] != after[name]} == {"beta_vae-32-0", "beta_vae-64-0"}
    assert after["beta_vae-64-0"].settings["beta"] == 1.2


def test_vae_and_beta_vae_differ_in_beta_alone(resolve, raw):
    runs = resolve(raw)
    for size in (32, 64):
        vae, beta = runs[f"vae-{size}-0"], runs[f"beta_vae-{size}-0"]
        assert {k for k in vae.settings if vae.settings[k] != beta.settings[k]} == {"beta"}
        assert vae.train == beta.train


def test_own_settings_override_shared_ones_and_sizes_override_scales(raw, resolve):
    put(raw, "train.weight_decay", 0.5)
    put(raw, "recipes.vae.demo.at_64", {"train": {"weight_decay": 0.25}, "model": {"latent_dim": 7}})
    runs = resolve(raw)
    assert [runs[name].train.weight_decay for name in ("vae-32-0", "vae-64-0", "dcgan-32-0")] == [0.5, 0.25, 0.5]
    assert (runs["vae-32-0"].settings["latent_dim"], runs["vae-64-0"].settings["latent_dim"]) == (32, 7)


def test_configs_survive_their_files(raw, resolve, tmp_path):
    for name, run in resolve(raw).items():
        assert RunConfig.load(name, tmp_path / "configs") == run


@pytest.mark.parametrize(
    ("source", "ood", "expected"),
    [("synthetic", "auto", "synthetic"), ("celeba", "auto", "fashion_mnist"), ("celeba", "synthetic", "synthetic")],
)
def test_other_images_go_with_the_faces_unless_named(raw, resolve, tmp_path, source, ood, expected):
    put(raw, "data.source", source)
    put(raw, "ood.source", ood)
    resolve(raw)
    assert DownloadConfig.load(tmp_path / "configs").ood_source == expected


def test_the_key_of_a_run_changes_with_everything_that_decides_it(run_config):
    config, card = run_config("vae"), {"train": "abc"}
    keys = {
        config.key(card),
        config.key({"train": "abd"}),
        run_config("vae", 64).key(card),
        run_config("vae", lr=0.5).key(card),
        run_config("vae").seeded(1).key(card),
    }
    assert len(keys) == 5
    assert config.key(card) == run_config("vae").key(dict(card))


def test_params_yaml_survives_the_rewriting_of_dvc():
    """`dvc exp run -S` loads and dumps the file in round-trip mode; ours must come back byte for byte."""
    text = (ROOT / "params.yaml").read_text()
    yaml, out = YAML(), io.StringIO()
    yaml.dump(yaml.load(text), out)
    assert out.getvalue() == text


@pytest.fixture
def source(tmp_path):
    shutil.copytree(ROOT / "src" / "visage", tmp_path / "src" / "visage", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def touch(path):
    path.write_text(path.read_text() + "\nEXTRA = 1\n")


EVERY = {"vae", "beta_vae", "dcgan", "realnvp", "ddpm", "latent_diffusion"}


@pytest.mark.parametrize(
    ("touched", "changed"),
    [
        ("models/vae.py", {"vae", "beta_vae"}),
        ("models/dcgan.py", {"dcgan"}),
        ("models/realnvp.py", {"realnvp"}),
        ("models/base.py", EVERY),
        ("training/loop.py", EVERY),
        ("maths/pixels.py", EVERY),
        ("maths/likelihoods.py", {"vae", "beta_vae", "ddpm", "latent_diffusion"}),
        ("maths/diffusion.py", {"ddpm", "latent_diffusion"}),
        ("nn/unet.py", {"ddpm", "latent_diffusion"}),
        ("nn/flow_layers.py", {"realnvp"}),
        ("report/page.py", set()),
        ("tracking.py", set()),
        ("evaluation/ood.py", set()),
        ("data/preprocess.py", set()),
    ],
)
def test_editing_a_file_changes_the_runs_that_import_it(source, touched, changed):
    models = {"vae": "vae", "beta_vae": "vae"}
    models |= {name: name for name in ("dcgan", "realnvp", "ddpm", "latent_diffusion")}

    def digests():
        return {name: parameters.run_digest(model, source) for name, model in models.items()}

    before = digests()
    touch(source / "visage" / touched)
    after = digests()
    assert {name for name in models if before[name] != after[name]} == changed


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_every_command_in_the_documentation_names_real_parameters(raw, page):
    text = (ROOT / page).read_text()
    for key, value in re.findall(r"-S '?([a-z_0-9.]+)=([^\s'\\]+)", text):
        section = raw
        for part in key.split("."):
            assert part in section, f"{page}: -S {key}"
            section = section[part]
        if key == "runs":
            assert {run.split("-")[0] for run in value.strip("[]").split(",")} <= set(raw["recipes"])
