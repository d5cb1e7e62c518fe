import copy
import io
import json
import re
import shutil

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage import params as parameters
from visage.config import (
    AttributeNetworkConfig,
    DownloadConfig,
    EvaluateConfig,
    OodSet,
    PreprocessConfig,
    ReferenceConfig,
    ReportConfig,
    RunConfig,
)
from visage.errors import UserError


@pytest.fixture(scope="session")
def shipped_raw():
    return YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.fixture
def raw(shipped_raw):
    """params.yaml as it is shipped, but with one small run."""
    return copy.deepcopy(shipped_raw) | {"runs": ["vae-32"]}


@pytest.fixture
def read(tmp_path):
    """Write a changed params.yaml (JSON is YAML) and read it."""

    def go(raw):
        (tmp_path / "params.yaml").write_text(json.dumps(raw))
        return parameters.load(tmp_path / "params.yaml")

    return go


@pytest.fixture
def resolve(read):
    """The same; what each run is, by name."""
    return lambda raw: {run.name: run for run in parameters.resolve(read(raw), ROOT / "src")}


@pytest.fixture
def configure(read, tmp_path):
    """The same all the way to the files in configs/."""

    def go(raw):
        params = read(raw)
        runs = parameters.resolve(params, ROOT / "src")
        parameters.write_configs(params, runs, tmp_path / "configs", ROOT)
        return {run.name: run for run in runs}

    return go


def put(raw, dotted, value):
    *path, last = dotted.split(".")
    for key in path:
        raw = raw.setdefault(key, {})
    raw[last] = value


def runs_for(key, value):
    """The run that a changed key concerns: the recipe's, where the key is a recipe's."""
    if key == "runs":
        return value
    return [f"{key.split('.')[1]}-32" if key.startswith("recipes.") else "vae-32"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.kimgg", 3, ["train", "kimgg", "unknown", "did you mean kimg?"]),
        ("data.sauce", "celeba", ["data", "sauce", "unknown", "did you mean source?"]),
        ("data.celebra", {}, ["data", "celebra", "unknown", "did you mean celeba?"]),
        ("bata", 1, ["bata", "unknown", "did you mean data?"]),
        ("train.lr_final", "1e-3", ["train: lr_final", "number", "'1e-3'"]),
        ("train.weight_decay", -1000.0, ["train: weight_decay", "greater than", "-1000.0"]),
        ("recipes.vae.demo.train.lr", 1000.0, ["recipes.vae.demo.train: lr", "less than 1", "1000.0"]),
        ("recipes.vae.demo.train.kimgg", 1, ["recipes.vae.demo.train: kimgg", "unknown", "did you mean kimg?"]),
        ("recipes.vae.train.lr_final", 2, ["recipes.vae.train: lr_final", "less than or equal to 1", "2"]),
        ("recipes.vae.at_32", {"train": {"lr": 0}}, ["recipes.vae.at_32.train: lr", "greater than 0"]),
        ("recipes.vae.demo.at_32", {"model": {"width": 3}}, ["recipes.vae.demo.at_32.model: width", "8", "3"]),
        ("train.batch_size", 0, ["batch_size", "2"]),
        ("train.flip", "off", ["flip", "boolean", "'off'"]),
        ("scale", "medium", ["scale", "demo", "full", "medium"]),
        ("runs", [], ["runs is empty", "nothing to train"]),
        ("runs", ["vea-32"], ["runs", "vea", "did you mean vae?"]),
        ("runs", ["vae_32"], ["runs", "vae_32", "<recipe>-<size>"]),
        ("runs", ["vae-32", "vae-32"], ["vae-32", "twice"]),
        ("runs", ["vae-48"], ["vae-48", "preprocess.sizes"]),
        ("runs", ["vae-32-0"], ["vae-32-0", "<recipe>-<size>"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 3, 3], ["seeds", "3", "twice"]),
        ("seeds", [0, -1], ["seeds", "greater than or equal to 0", "-1"]),
        ("seeds", 0, ["seeds", "list"]),
        ("recipes.conditional_gan.model.attributes", ["Smilling"], ["Smilling", "did you mean Smiling?"]),
        ("recipes.cyclegan.model.domain_b", "Black_Hair", ["domain_a", "domain_b", "Black_Hair"]),
        ("recipes.ddpm.model.multipliers", [], ["ddpm", "multipliers"]),
        ("recipes.stylegan.demo.train.lr_factors", {"generator": 0.0}, ["lr_factors", "greater than 0"]),
        ("data.source", "folder", ["data", "root"]),
        ("data.source", "celebra", ["data.source", "celebra", "did you mean celeba?", "folder"]),
        ("data.synthetic.images", 3, ["data.synthetic", "images", "20", "3"]),
        ("data.celeba.mirrors", "http://x", ["data.celeba", "mirrors"]),
        ("data.celeba.checksums", {"a.zip": "123"}, ["data.celeba", "checksums.a.zip", "123"]),
        ("data.celeba.mirror", [], ["data.celeba", "mirror", "unknown", "did you mean mirrors?"]),
        ("data.synthetic", None, ["data.synthetic", "dictionary"]),
        ("data.folder.test_share", 0.95, ["data.folder", "valid_share + test_share"]),
        ("ood", [], ["ood", "at least one", "headline"]),
        ("ood", "svhn", ["ood", "list"]),
        ("ood", [{"source": "svnh"}], ["ood[0].source", "svnh", "did you mean svhn?", "auto"]),
        ("ood", [{"source": "auto"}, {"sauce": "svhn"}], ["ood.1", "source", "missing"]),
        ("ood", [{"source": "auto"}, {"source": "folder"}], ["ood", "folder", "root"]),
        ("ood", [{"source": "svhn"}, {"source": "svhn", "root": "more"}], ["ood", "two sets are named svhn", "name"]),
        ("ood", [{"source": "auto"}, {"source": "drawn_clothes"}], ["ood", "two sets are named drawn_clothes"]),
        ("ood", [{"source": "svhn", "name": "House Numbers"}], ["ood[0].name", "House Numbers", "a-z"]),
        ("ood", [{"source": "svhn", "name": "gray"}], ["ood[0]", "gray", "name"]),
        ("ood", [{"source": "folder", "root": "/photos/test"}], ["ood[0]", "test", "name"]),
        ("ood", [{"source": "svhn", "name": "train"}], ["ood[0]", "train", "name"]),
        ("ood", [{"source": "svhn", "name": "file"}], ["ood[0]", "file", "name"]),
        ("ood", [{"source": "folder", "root": "/photos/2024"}], ["ood", "/photos/2024", "name"]),
        ("preprocess.crop.right", 170, ["crop", "square"]),
        ("preprocess.crop.bottom", 230, ["crop", "218"]),
        ("model.likelihood", "gausian", ["params.yaml: model: likelihood", "gausian", "gaussian"]),
        ("recipes.beta_vae.model.beta", -1.0, ["recipes.beta_vae.model: beta", "0"]),
        ("recipes.vae.uses", ["betaa"], ["recipes.vae.uses", "betaa", "did you mean beta?"]),
        ("recipes.vae.file", "vea", ["recipes.vae", "vea.py"]),
        ("recipes.vae.base", "beta_vea", ["recipes.vae.base", "beta_vea", "did you mean beta_vae?"]),
        ("recipes.vae.base", "vae", ["recipes.vae.base", "vae -> vae", "circle"]),
        ("recipes.vae.base", "beta_vae", ["base", "vae -> beta_vae -> vae", "circle"]),
        ("recipes.vae.modell", {}, ["recipes.vae", "modell", "did you mean model?"]),
        ("recipes.vae.model.widht", 3, ["recipes.vae.model", "widht", "did you mean width?"]),
        ("recipes.vae.demo.model.widht", 3, ["recipes.vae.demo.model", "widht", "did you mean width?"]),
        ("recipes.vae.demo.at32", {}, ["recipes.vae.demo", "at32", "at_<size>"]),
        ("recipes.dcgan.model.latent_dim", 0, ["dcgan", "latent_dim"]),
        ("evaluate.draws", 0, ["evaluate", "draws"]),
        ("evaluate.importance_draws", 0, ["evaluate", "importance_draws"]),
        ("evaluate.inception", True, ["evaluate", "inception", "string"]),
        ("attribute_network.kimg", 0, ["attribute_network", "kimg", "greater than 0"]),
        ("attribute_network.epochs", 3, ["attribute_network", "epochs", "unknown"]),
        ("runtime.device", "gpu", ["runtime", "device", "cuda"]),
    ],
)
def test_mistakes_are_one_line_that_names_them(raw, configure, key, value, words):
    put(raw, key, value)
    with pytest.raises(UserError) as error:
        configure(raw | {"runs": runs_for(key, value)})
    message = str(error.value)
    assert "ood" in message or "params.yaml" in message
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_missing_keys_and_files_are_named(raw, configure, tmp_path):
    del raw["train"]["flip"]
    with pytest.raises(UserError, match=r"train.*flip: this key is missing"):
        configure(raw)
    del raw["data"]["synthetic"]
    with pytest.raises(UserError, match=r"flip|data.synthetic: this key is missing"):
        configure(raw)
    with pytest.raises(UserError, match="missing"):
        parameters.load(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("seed: [1\nruns: 2")
    with pytest.raises(UserError, match=r"broken.yaml, line"):
        parameters.load(tmp_path / "broken.yaml")


# --- From a recipe to a run


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_every_shipped_recipe_is_valid_at_every_size(raw, resolve, scale):
    raw |= {"scale": scale, "runs": [f"{recipe}-{size}" for recipe in raw["recipes"] for size in (32, 64)]}
    assert {run.label for run in resolve(raw).values()} == set(raw["runs"])


PLACES = [
    *("", "recipes.vae", "recipes.vae.demo", "recipes.vae.at_32", "recipes.vae.demo.at_32"),
    *("recipes.beta_vae", "recipes.beta_vae.demo", "recipes.beta_vae.at_32", "recipes.beta_vae.demo.at_32"),
]
"""In the order of the comment above `recipes` in params.yaml: each overrides those above it."""


def test_each_place_overrides_those_above_it(raw, resolve):
    for step, place in enumerate(PLACES, 1):
        put(raw, f"{place}.train.weight_decay".lstrip("."), float(step))
        if place:
            put(raw, f"{place}.model.latent_dim", step)
        runs = resolve(raw | {"runs": ["beta_vae-32", "beta_vae-64", "dcgan-32"]})
        elsewhere = [i for i, p in enumerate(PLACES[:step], 1) if "at_32" not in p][-1]
        assert [run.train.weight_decay for run in runs.values()] == [step, elsewhere, 1]
        if place:
            assert runs["beta_vae-32-0"].settings["latent_dim"] == step
    raw["scale"] = "full"
    (run,) = resolve(raw | {"runs": ["beta_vae-32"]}).values()
    assert PLACES[int(run.train.weight_decay) - 1] == "recipes.beta_vae.at_32"


def test_a_shared_knob_overrides_the_base_and_yields_to_the_recipe(raw, resolve):
    raw["runs"] = ["vae-32", "beta_vae-32"]
    put(raw, "model.beta", 1.25)
    runs = resolve(raw)
    assert [runs[name].settings["beta"] for name in ("vae-32-0", "beta_vae-32-0")] == [1.0, 1.25]
    put(raw, "recipes.beta_vae.model.beta", 3.0)
    assert resolve(raw)["beta_vae-32-0"].settings["beta"] == 3.0


def test_a_base_of_another_model_gives_its_training_and_the_settings_that_fit(raw, resolve):
    raw["recipes"]["small"] = {
        "base": "ddpm", "file": "dcgan", "demo": {"train": {"kimg": 1.5}}, "model": {"latent_dim": 8}
    }  # fmt: skip
    raw["runs"] = ["ddpm-32", "small-32"]
    ddpm, small = resolve(raw).values()
    assert small.settings == {"latent_dim": 8, "width": ddpm.settings["width"]}
    assert (small.train.kimg, small.train.ema_decay) == (1.5, ddpm.train.ema_decay)
    assert small.model == "dcgan"
    del raw["recipes"]["small"]["model"]  # nothing gives latent_dim
    with pytest.raises(UserError, match=r"recipes.small.*latent_dim: this key is missing"):
        resolve(raw)
    put(raw, "recipes.ddpm.model.widht", 3)
    with pytest.raises(UserError, match=r"recipes.ddpm.model: widht: unknown key; did you mean width"):
        resolve(raw | {"runs": ["small-32"]})


def test_bases_form_chains(raw, resolve):
    raw["recipes"]["third"] = {"base": "beta_vae", "file": "vae", "model": {"latent_dim": 5}}
    raw["runs"] = ["beta_vae-32", "third-32"]
    beta, third = resolve(raw).values()
    assert third.settings == beta.settings | {"latent_dim": 5}
    assert third.train == beta.train


def test_vae_and_beta_vae_differ_in_beta_alone(raw, resolve):
    runs = resolve(raw | {"runs": ["vae-32", "vae-64", "beta_vae-32", "beta_vae-64"]})
    for size in (32, 64):
        vae, beta = runs[f"vae-{size}-0"], runs[f"beta_vae-{size}-0"]
        assert {k for k in vae.settings if vae.settings[k] != beta.settings[k]} == {"beta"}
        assert vae.train == beta.train


def test_beta_reaches_the_beta_vae_alone(raw, resolve):
    raw["runs"] = ["vae-32", "beta_vae-32", "beta_vae-64", "dcgan-32"]
    before = resolve(copy.deepcopy(raw))
    put(raw, "model.beta", 1.2)
    after = resolve(raw)
    assert {name for name in before if before[name] != after[name]} == {"beta_vae-32-0", "beta_vae-64-0"}


def test_a_run_with_a_first_stage_holds_its_config(raw, resolve):
    runs = resolve(raw | {"runs": ["latent_diffusion-64", "vae-32"]})
    assert list(runs) == ["latent_diffusion-64-0", "vae-32-0"]
    first = runs["latent_diffusion-64-0"].first_stage
    assert first == resolve(raw | {"runs": ["autoencoder-64"]})["autoencoder-64-0"]
    assert runs["vae-32-0"].first_stage is None
    put(raw, "recipes.autoencoder.model.blocks", 0)
    with pytest.raises(UserError, match=r"recipes.autoencoder.model: blocks"):
        resolve(raw | {"runs": ["latent_diffusion-64"]})
    del raw["recipes"]["autoencoder"]
    with pytest.raises(UserError, match="autoencoder"):
        resolve(raw | {"runs": ["latent_diffusion-64"]})


def test_every_run_is_trained_once_for_each_seed(raw, resolve):
    raw["runs"] = ["vae-32", "latent_diffusion-32"]
    alone = resolve(copy.deepcopy(raw))
    runs = resolve(raw | {"seeds": [0, 2]})
    assert list(runs) == ["vae-32-0", "vae-32-2", "latent_diffusion-32-0", "latent_diffusion-32-2"]
    assert [(run.label, run.seed) for run in runs.values()][:2] == [("vae-32", 0), ("vae-32", 2)]
    assert runs["latent_diffusion-32-2"].first_stage.name == "autoencoder-32-2"
    assert {name: runs[name] for name in alone} == alone  # a new seed changes nothing of the others


def test_a_folder_without_attributes_cannot_train_what_needs_them(raw, resolve):
    raw["runs"] = ["vae-32", "conditional_gan-32"]
    raw["data"] |= {"source": "folder", "root": "photos"}
    with pytest.raises(UserError, match=r"conditional_gan-32 needs attributes .*data.folder.attributes"):
        resolve(raw)
    with pytest.raises(UserError, match=r"data.source: there is no source folded"):
        resolve(raw | {"data": raw["data"] | {"source": "folded"}})
    raw["data"]["folder"]["attributes"] = "attributes.csv"  # which ones it has is known once it is read
    assert resolve(raw)["conditional_gan-32-0"]


# --- Configs


def test_the_seed_of_data_and_evaluation_is_none_of_the_trainings(raw, configure, tmp_path):
    before = configure(copy.deepcopy(raw))
    assert configure(raw | {"seed": 7}) == before
    kinds = (DownloadConfig, EvaluateConfig, AttributeNetworkConfig)
    assert [kind.load(tmp_path / "configs").seed for kind in kinds] == [7, 7, 7]


def test_data_and_networks_are_made_for_every_size_and_label(raw, configure, tmp_path):
    configure(raw | {"seeds": [0, 1]})
    arrays, reference, network, report = (
        kind.load(tmp_path / "configs")
        for kind in (PreprocessConfig, ReferenceConfig, AttributeNetworkConfig, ReportConfig)
    )
    assert arrays.sizes == reference.sizes == network.sizes == tuple(raw["preprocess"]["sizes"])
    assert arrays.labels == reference.labels
    assert {"vae-64", "latent_diffusion-32"} < set(arrays.labels)
    assert arrays.crop == (15, 40, 163, 188)
    assert (network.kimg, network.batch_size, network.lr) == tuple(raw["attribute_network"].values())
    assert report.runs == ("vae-32-0", "vae-32-1")


def test_only_the_settings_of_the_chosen_source_are_kept(raw, configure, tmp_path):
    configure(raw)
    drawn = DownloadConfig.load(tmp_path / "configs")
    assert (drawn.source, drawn.settings) == ("synthetic", raw["data"]["synthetic"])
    put(raw, "data.source", "celeba")
    configure(raw)
    celeba = DownloadConfig.load(tmp_path / "configs")
    assert (celeba.source, celeba.settings) == ("celeba", raw["data"]["celeba"])


@pytest.mark.parametrize(
    ("source", "sets", "expected"),
    [
        ("synthetic", [{"source": "auto"}], [("drawn_clothes", "drawn_clothes", None)]),
        ("celeba", [{"source": "auto", "root": None}], [("fashion_mnist", "fashion_mnist", None)]),
        ("celeba", [{"source": "drawn_clothes"}], [("drawn_clothes", "drawn_clothes", None)]),
        (
            "synthetic",
            [{"source": "svhn", "root": "/svhn"}, {"source": "folder", "root": "/data/Wild Cats (2024)/"}],
            [("svhn", "svhn", "/svhn"), ("wild_cats_2024", "folder", "/data/Wild Cats (2024)/")],
        ),
        (
            "synthetic",
            [{"source": "folder", "root": "a/1 cats"}, {"source": "folder", "root": "b/cats", "name": "more_cats"}],
            [("cats", "folder", "a/1 cats"), ("more_cats", "folder", "b/cats")],
        ),
    ],
)
def test_sets_of_other_images_are_named_and_settled(raw, configure, tmp_path, source, sets, expected):
    put(raw, "data.source", source)
    configure(raw | {"ood": sets})
    assert DownloadConfig.load(tmp_path / "configs").ood == tuple(OodSet(*entry) for entry in expected)


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("attribute_network.kimg", 0.5, {"attribute_network.json"}),
        ("evaluate.derived_images", 7, {"evaluate.json"}),
        ("seeds", [0, 1], {"report.json", "vae-32-1.json"}),
        ("model.beta", 0.5, set()),
        ("data.celeba.mirrors", ["http://localhost"], set()),
        (
            "ood",
            [{"source": "auto"}, {"source": "svhn"}],
            {"download.json", "code/download.json", "code/preprocess.json"},
        ),
    ],
)
def test_a_parameter_changes_the_configs_of_what_depends_on_it(raw, configure, tmp_path, key, value, changed):
    configure(raw)
    before = contents(tmp_path / "configs")
    put(raw, key, value)
    configure(raw)
    assert differing(before, contents(tmp_path / "configs")) == changed


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")}


def differing(before, after):
    return {name for name in after if after[name] != before.get(name)}


def test_configs_survive_their_files(raw, configure, tmp_path):
    for name, run in configure(raw | {"runs": ["vae-32", "glow-32", "latent_diffusion-32"]}).items():
        assert RunConfig.load(name, tmp_path / "configs") == run


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


# --- The file itself


def test_params_yaml_survives_the_rewriting_of_dvc():
    """`dvc exp run -S` loads and dumps the file in round-trip mode; ours must come back byte for byte."""
    text = (ROOT / "params.yaml").read_text()
    yaml, out = YAML(), io.StringIO()
    yaml.dump(yaml.load(text), out)
    assert out.getvalue() == text


def test_set_param_changes_the_lines_it_names_and_no_other(tmp_path):
    """What `dvc exp run -S` does to the file: lists in braces stay there, and only blank lines after lists are lost."""
    from dvc.utils.hydra import apply_overrides

    path = shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(path, ["recipes.vae.demo.train.kimg=2", "recipes.autoencoder.full.model.multipliers=[1,2,2]"])
    before, after = (filter(None, (folder / "params.yaml").read_text().splitlines()) for folder in (ROOT, tmp_path))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.split("{")[1][:7] for _, new in changed] == ["kimg: 2", "width: "]
    assert "multipliers: [1, 2, 2]" in changed[1][1]


def test_every_recipe_says_how_long_a_demo_trains(raw):
    """A shorter training is the first thing that one sets by `-S recipes.<recipe>.demo.train.kimg=...`."""
    assert [name for name, recipe in raw["recipes"].items() if "kimg" not in recipe["demo"]["train"]] == []


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


# --- Which code a run and a stage depend on


@pytest.fixture
def project(tmp_path):
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def touch(path):
    path.write_text(path.read_text() + "\n")


EVERY = {"vae", "beta_vae", "dcgan", "realnvp", "ddpm", "latent_diffusion"}


@pytest.mark.parametrize(
    ("touched", "changed"),
    [
        ("models/vae.py", {"vae", "beta_vae"}),
        ("models/dcgan.py", {"dcgan"}),
        ("models/realnvp.py", {"realnvp"}),
        ("models/base.py", EVERY),
        ("training/loop.py", EVERY),
        ("inference/validation.py", EVERY),
        ("maths/pixels.py", EVERY),
        ("maths/likelihoods.py", {"vae", "beta_vae", "ddpm", "latent_diffusion"}),
        ("maths/diffusion.py", {"ddpm", "latent_diffusion"}),
        ("nn/unet.py", {"ddpm", "latent_diffusion"}),
        ("nn/flow_layers.py", {"realnvp"}),
        ("report/page.py", set()),
        ("measures/ood.py", set()),
        ("data/preprocess.py", set()),
        ("config.py", set()),
    ],
)
def test_editing_a_file_changes_the_runs_that_import_it(project, touched, changed):
    models = {"vae": "vae", "beta_vae": "vae"}
    models |= {name: name for name in ("dcgan", "realnvp", "ddpm", "latent_diffusion")}

    def digests():
        return {name: parameters.run_digest(model, project / "src") for name, model in models.items()}

    before = digests()
    touch(project / "src" / "visage" / touched)
    after = digests()
    assert {name for name in models if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("pattern", "changed", "same"),
    [
        ("report/**/*.css", {"report"}, {"train", "evaluate", "reference", "download"}),
        ("report/page.py", {"report"}, {"train", "evaluate", "reference", "download"}),
        ("measures/table.py", {"report"}, {"train", "evaluate", "reference"}),
        ("measures/ood.py", {"evaluate"}, {"train", "preprocess", "attribute_network"}),
        ("measures/probes.py", {"reference", "evaluate"}, {"train", "preprocess", "attribute_network"}),
        ("training/loop.py", {"train", "vae-32-0"}, {"report", "reference", "preprocess", "download"}),
        ("data/sources/synthetic.py", {"download", "preprocess"}, {"train", "evaluate", "report"}),
        ("data/ood/drawn_clothes.py", {"download", "preprocess"}, {"train", "evaluate", "report"}),
        ("data/ood/svhn.py", set(), {"download", "preprocess", "train", "evaluate", "report"}),
        ("models/vae.py", {"vae-32-0"}, {"train", "evaluate", "report"}),
    ],
)
def test_editing_a_file_changes_the_stages_that_import_it(raw, project, pattern, changed, same):
    (project / "params.yaml").write_text(json.dumps(raw))

    def written():
        params = parameters.load(project / "params.yaml")
        runs = parameters.resolve(params, project / "src")
        parameters.write_configs(params, runs, project / "configs", project)
        return contents(project / "configs")

    before = written()
    touch(sorted((project / "src" / "visage").glob(pattern))[0])
    names = {name.removeprefix("code/").removesuffix(".json") for name in differing(before, written())}
    assert changed <= names
    assert not names & same


def test_digests_name_the_modules_of_a_stage(raw, configure, tmp_path):
    configure(raw)
    code = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "configs" / "code").glob("*.json")}
    assert code.keys() == {
        *("download", "preprocess", "attribute_network", "reference", "train", "evaluate", "report")
    }  # fmt: skip
    for stage, digests in code.items():
        assert list(digests) == sorted(digests)
        assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests.values())
        if stage != "report":
            assert not set(digests) & parameters.PLUMBING
    assert "visage.training.loop" in code["train"]
    assert "visage.data.sources.synthetic" in code["download"]
    assert "visage.data.sources.celeba" not in code["download"]
    beside = {path.name for path in (ROOT / "src/visage/report").rglob("*") if path.suffix in {".j2", ".css", ".js"}}
    assert {name.rpartition("/")[2] for name in code["report"] if "/" in name} == beside


def test_imports_are_found_wherever_they_are_written(tmp_path):
    files = {
        "__init__.py": "",
        "a.py": "import numpy\nfrom visage import b\nfrom visage.p.c import thing\n",
        "b.py": "def f():\n    import visage.d\n",
        "d.py": "from visage import nothing_that_is_a_module\nimport visagelike\n",
        "e.py": "",
        "p/__init__.py": "from visage.e import x\n",
        "p/c.py": "from visage import a\n",
        "p/unused.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "visage" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    all_of_a = {"visage", "visage.a", "visage.b", "visage.d", "visage.e", "visage.p", "visage.p.c"}
    assert parameters.first_party_imports(["visage.a"], tmp_path) == all_of_a
    without = frozenset({"visage.p"})
    assert parameters.first_party_imports(["visage.a"], tmp_path, without) == all_of_a - {
        *("visage.e", "visage.p", "visage.p.c")
    }  # fmt: skip
