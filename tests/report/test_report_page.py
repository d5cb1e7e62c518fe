import json
import re
import shutil
from html.parser import HTMLParser

import fake_runs
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visage.errors import UserError
from visage.files import read_json, write_json
from visage.report.page import build_report

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps table rows, cells and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.rows, self.images, self.text = [], [], [], {}, [], []
        self.cell = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [attrs[key] for key in ("href", "src", "xlink:href", "action") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        if "data-run" in attrs:
            self.row = self.rows.setdefault(attrs["data-run"], {})
        if "data-column" in attrs:
            self.cell = self.row[attrs["data-column"]] = {"title": attrs["title"], "text": "", **attrs}

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())
        if tag == "td":
            self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell["text"] += data


@pytest.fixture(scope="module")
def source(project):
    return (project / "report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_table_has_a_row_per_run_and_no_empty_cell(page):
    assert sorted(page.rows) == sorted(fake_runs.NAMES)
    for row in page.rows.values():
        assert len(row) == 14
        for cell in row.values():
            assert cell["text"].strip()


def test_undefined_cells_say_why_on_hover_and_in_a_footnote(source, page):
    dashes = {
        (run, key): cell for run, row in page.rows.items() for key, cell in row.items() if cell["data-value"] == ""
    }
    assert {key for run, key in dashes if run == "dcgan-16"} >= {"recon_mse", "bits_per_dim", "elbo"}
    notes = dict(re.findall(r'<li id="(note-[^"]+)">([^<]+)</li>', source))
    for (run, _), cell in dashes.items():
        number = re.search(r"\d+", cell["text"]).group()
        note = notes[f"note-{run.rpartition('-')[2]}-{number}"]
        assert note.replace("&#39;", "'") == cell["title"]
    assert dashes["dcgan-16", "bits_per_dim"]["title"] == "a GAN defines no density"


def test_bits_per_dim_carries_its_kind(page):
    assert page.rows["vae-16"]["bits_per_dim"]["text"] == "≤ 4.916"
    assert page.rows["realnvp-16"]["bits_per_dim"]["text"] == "4.416"


def test_only_an_interval_below_one_half_is_inverted(page):
    flagged = {run for run, row in page.rows.items() if "inverted" in row["ood_auroc"]["text"]}
    assert flagged == {"realnvp-16", "realnvp-32"}


def test_findings_follow_the_intervals(page):
    text = " ".join(" ".join(page.text).split())
    assert re.search(r"realnvp-16 gives drawn clothes \([^)]*\) a higher likelihood than held-out faces", text)
    assert re.search(r"vae-16 gives drawn clothes \([^)]*\) a lower likelihood bound than held-out faces", text)
    assert "beta_vae-16 gives both sets so similar a likelihood bound that nothing follows" in text
    assert "dcgan-16 gives" not in text


def test_drawn_faces_are_unmistakable(page):
    assert "Trained on drawn faces, not photographs" in page.text
    assert "CelebA photographs" not in " ".join(page.text)


def test_celeba_is_named_and_text_from_files_escaped(small):
    fake_runs.card(small, "celeba", "fashion_mnist")
    path = small / "runs/dcgan-16/evaluate/records.json"
    records = read_json(path)
    records[0]["note"] = '<script>alert("x")</script>'
    write_json(path, records)
    build_report(["dcgan-16"], small, small / "report")
    text = (small / "report/index.html").read_text(encoding="utf-8")
    assert "Trained on CelebA photographs" in text
    assert "drawn faces" not in text
    assert "drawn clothes" not in text
    assert "<script>alert" not in text


def test_page_is_one_file(source, page):
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    assert all(attrs["src"].startswith("data:image/webp;base64,") and attrs["alt"] for attrs in page.images)
    assert {link[1:] for link in page.links if re.match(r"#(note|run|size|shot|chart)-", link)} <= set(page.ids)
    named = [id_ for id_ in page.ids if re.match(r"(note|run|size|shot|chart)-", id_)]
    assert len(named) == len(set(named))


def test_table_csv_equals_the_metrics_files(project):
    table = pd.read_csv(project / "report/table.csv").set_index("run")
    assert list(table.index) == fake_runs.NAMES
    names = ["recon_mse", "psnr", "ssim", "rate", "distortion", "elbo", "bits_per_dim", "ood_auroc"]
    for run, row in table.iterrows():
        metrics = read_json(project / "metrics" / f"{run}.json")
        for name in names:
            if name in metrics:
                assert row[name] == pytest.approx(metrics[name], rel=1e-5)
            else:
                assert np.isnan(row[name])
    assert list(table["bits_per_dim_kind"].unique()) == ["upper_bound", "undefined", "exact"]
    assert table["parameters"]["dcgan-16"] == 975_321


def test_curves_csv_is_tidy(project):
    curves = pd.read_csv(project / "report/curves.csv")
    assert list(curves.columns) == ["run", "step", "kimg", "term", "value"]
    history = pd.read_csv(project / "runs/dcgan-16/train/history.csv")
    mine = curves[(curves["run"] == "dcgan-16") & (curves["term"] == "discriminator/loss")]
    assert mine["value"].to_numpy() == pytest.approx(history["discriminator/loss"].to_numpy())
    assert "validation/bits_per_dim" in set(curves[curves["run"] == "vae-16"]["term"])


def test_plots_are_pictures(project):
    plots = {path.stem for path in (project / "report/plots").glob("*.png")}
    assert {"vae-16-loss", "vae-16-rate", "dcgan-32-grad_norm", "ood-roc-16", "psnr-32", "vae-16-ood-nll"} <= plots
    with Image.open(project / "report/plots/ood-roc-16.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_same_files_give_the_same_report(small):
    for out in ("first", "second"):
        build_report(["dcgan-16"], small, small / out)
    first, second = ({p.name: p.read_bytes() for p in (small / out).rglob("*.*")} for out in ("first", "second"))
    assert first == second


LOSSES = [
    (["runs/vae-16/evaluate"], "not evaluated yet"),
    (["runs/vae-16/train", "metrics/cost"], "not trained yet"),
    (
        [f"runs/vae-16/evaluate/{file}" for file in ("scores.npz", "failures.json", "samples.png")]
        + ["runs/vae-16/train/history.csv", "runs/vae-16/train/validation.csv", "data/processed/card.json"],
        "card.json is missing",
    ),
]


@pytest.mark.parametrize(("lost", "said"), LOSSES)
def test_missing_parts_are_named_and_break_nothing(small, lost, said):
    for path in (small / name for name in lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build_report(["vae-16"], small, small / "report")
    text = (small / "report/index.html").read_text(encoding="utf-8")
    assert said in text
    assert all(name in text for name in lost)
    assert Page(text).rows["vae-16"]["bits_per_dim"]["text"].strip()


def test_no_runs_at_all_says_what_to_do(tmp_path):
    fake_runs.configure(tmp_path, "vae-16")
    for names in (["vae-16"], []):
        with pytest.raises(UserError, match="dvc repro"):
            build_report(names, tmp_path, tmp_path / "report")


def test_bad_files_are_named(small):
    with pytest.raises(UserError, match=r"configs/vae-99\.json is missing"):
        build_report(["vae-99"], small, small / "report")
    (small / "runs/vae-16/train/run.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json is no JSON"):
        build_report(["vae-16"], small, small / "report")


def test_kinds_are_written_in_one_order(page, source):
    kinds = json.loads(re.search(r'data-kinds="([^"]*)"', source).group(1).replace("&#34;", '"'))
    for row in page.rows.values():
        cell = row["bits_per_dim"]
        expected = (
            "not defined" if cell["data-value"] == "" else "upper bound" if cell["text"].startswith("≤") else "exact"
        )
        assert kinds[int(cell["data-kind"])] == expected
