"""The site of the documentation builds without a warning, needs no network, and all that it links to is there."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import ROOT
from visage.models import base

CHROMIUM = os.environ.get("VISAGE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PAGES = [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
EXTERNAL = ("http://", "https://", "mailto:")


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that links may name."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.places, self.formulas = [], [], set(), 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        self.formulas += tag == "math" and found.get("display") == "block"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag != "a":
            self.loads += [found[key] for key in ("src", "href", "data") if found.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = re.search(r"-m (sphinx .+?) \. site", (ROOT / "Makefile").read_text().replace("\\\n", " "))[1]
    words = command.replace(".scratch/doctrees", str(out / ".doctrees")).split()
    done = subprocess.run(
        [sys.executable, "-m", *words, ".", out], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "", "each line is a page and what is wrong in it"
    assert done.returncode == 0
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


@pytest.mark.long
def test_every_page_of_the_documentation_is_in_the_site(site, pages):
    for page in PAGES:
        assert (site / page.relative_to(ROOT)).with_suffix(".html").resolve() in pages
    assert (site / "source/src/visage/models/vae.py.html").resolve() in pages  # linked from the VAE's page
    assert (site / "source/src/visage/params.html").resolve() in pages  # a folder
    assert urlsplit(pages[(site / "index.html").resolve()].links[0]).path == "docs/index.html"


@pytest.mark.long
def test_every_link_leads_to_a_place_that_is_there(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            if link.startswith((*EXTERNAL, "data:")):
                continue
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.is_file() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].places
            )
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.long
def test_no_page_asks_another_host_for_anything(site, pages):
    assert [load for page in pages.values() for load in page.loads if load.startswith((*EXTERNAL, "//"))] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.long
def test_every_displayed_formula_is_mathml(site, pages):
    for name in base.names():
        written = (ROOT / f"docs/models/{name}.md").read_text().count("```math")
        assert pages[(site / f"docs/models/{name}.html").resolve()].formulas == written > 0


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: set VISAGE_CHROMIUM to try the site in one")
def test_pages_fit_a_phone_and_load_nothing_from_elsewhere(site):
    sync_api = pytest.importorskip("playwright.sync_api")
    said = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.set_default_timeout(120_000)  # the machine may be busy with other tests
        for name in ("index", "gallery", "published", "api", "measures", "models/vae", "models/stylegan"):
            page.goto((site / f"docs/{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, name
        bar = page.locator("mfrac, msqrt").first.bounding_box()  # of a formula that the browser sets in two dimensions
        assert bar["height"] > 20
        browser.close()
    assert said == []


def test_pages_hold_nothing_that_only_the_site_understands():
    for page in PAGES:
        assert "\\operatorname" not in page.read_text(), f"{page}: GitHub refuses it; write \\mathop{{\\mathrm{{...}}}}"
        assert not re.search(r"^\s*(```\{|:::|\.\. \w+::)", page.read_text(), flags=re.M), page


def test_every_run_of_the_default_has_a_strip_of_images_and_all_of_them_are_small(shipped):
    strips = {path.stem: path.stat().st_size for path in (ROOT / "docs/figures/gallery").iterdir()}
    assert set(strips) == set(shipped.runs)
    assert sum(strips.values()) < 600_000


@pytest.mark.parametrize("name", base.names())
def test_the_page_of_a_model_names_what_is_in_its_file(name):
    source = (ROOT / f"src/visage/models/{name}.py").read_text()
    docstring = " ".join(source.split('"""')[1].split())
    by_hand = re.sub(
        r"<!-- (\w+): written.*?<!-- end of \1 -->", "", (ROOT / f"docs/models/{name}.md").read_text(), flags=re.S
    )
    objective = by_hand.split("## Objective")[1].split("\n## ")[0]
    symbols = [row.rsplit("|", 2)[1] for row in objective.splitlines() if row.startswith("|")][2:]
    assert symbols
    for code in re.findall(r"`([^`]+)`", " ".join(symbols)):
        assert re.search(rf"\b{re.escape(code)}\b", source), f"{code} is not in the file"
    for number in re.findall(
        r"(?:eq\.|eqs\.|table|algorithm|section|appendix|theorem) ([A-Z\d][\d.]*\d|\d)", objective
    ):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", docstring), f"the file does not cite {number}"
