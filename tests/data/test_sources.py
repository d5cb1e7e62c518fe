"""Sources are found by the names of their files."""

import dataclasses

import pytest

from visage.data import ood, sources
from visage.data.sources.celeba import GOOGLE_DRIVE
from visage.errors import UserError


def test_the_sources_there_are():
    assert {"celeba", "folder", "synthetic"} <= set(sources.names())
    assert {"cifar10", "drawn_clothes", "fashion_mnist", "folder", "svhn"} <= set(ood.names())


@pytest.mark.parametrize("package", [sources, ood])
def test_a_source_that_does_not_exist_is_refused_with_those_that_do(package):
    with pytest.raises(LookupError) as error:
        package.find("imagenet")
    name = package.__name__.rpartition(".")[2]
    assert f"no file src/visage/data/{name}/imagenet.py (there are: {', '.join(package.names())})" in str(error.value)


@pytest.mark.parametrize("name", sources.names())
def test_a_source_says_what_its_faces_are_and_what_is_beside_them(name):
    source = sources.find(name)
    assert source.TITLE
    assert source.OTHER_IMAGES in ood.names()
    assert dataclasses.is_dataclass(sources.settings_type(name))


def test_an_incomplete_source_is_refused(tmp_path, monkeypatch):
    (tmp_path / "half_a_source.py").write_text('TITLE = "nothing"\n')
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    assert "half_a_source" in sources.names()
    with pytest.raises(LookupError, match=r"sources/half_a_source\.py does not define everything that Source"):
        sources.find("half_a_source")


@pytest.mark.parametrize(
    ("source", "values", "words"),
    [
        ("synthetic", {"images": 19, "images_per_identity": 4}, r"data\.synthetic\.images: .* 20"),
        ("synthetic", {"images": 20, "images_per_identity": 0.5}, r"data\.synthetic\.images_per_identity"),
        ("synthetic", {"images": 20}, r"data\.synthetic\.images_per_identity: Field required"),
        ("celeba", {"mirrors": [], "checksums": {"a": "xyz"}}, r"data\.celeba\.checksums\.a: "),
        ("celeba", {"mirrors": [], "checksums": {}, "more": 1}, r"data\.celeba\.more: "),
        (
            "folder",
            {"attributes": " ", "valid_share": 0.1, "test_share": 0.1},
            r"data\.folder: attributes: ' ' names no",
        ),
        ("folder", {"attributes": None, "valid_share": 0, "test_share": 0.1}, r"data\.folder\.valid_share"),
    ],
)
def test_settings_out_of_range_are_refused(source, values, words):
    with pytest.raises(UserError, match=words):
        sources.settings(source, values)


def test_settings_are_built_from_what_json_holds():
    values = {"mirrors": ["http://a.example"], "checksums": dict.fromkeys(GOOGLE_DRIVE, "0" * 32)}
    assert sources.settings("celeba", values) == sources.settings_type("celeba")(
        ("http://a.example",), values["checksums"]
    )
