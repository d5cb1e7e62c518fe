import os
import shutil

import pytest

CHROMIUM = os.environ.get("VISAGE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: set VISAGE_CHROMIUM to try the page in one")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, project):
    pages, said = [], []

    def go(width=1400, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto((project / "report/index.html").as_uri())
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert said == []


def order(page):
    return page.eval_on_selector_all(
        "#size-16 table.compare tbody tr", "rows => rows.map(row => row.dataset.run || row.innerText.trim())"
    )


def test_sorting_ranks_within_a_kind_only(visit):
    page = visit()
    head = page.locator("#size-16 table.compare thead th", has_text="Bits/dim")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    ranked = ["exact", "realnvp-16", "upper bound", "vae-16", "beta_vae-16", "not defined", "dcgan-16"]
    assert order(page) == ranked
    head.locator("button").click()
    assert order(page) == [*ranked[:3], "beta_vae-16", "vae-16", *ranked[5:]]
    page.locator("#size-16 table.compare thead th", has_text="Parameters").locator("button").click()
    assert order(page) == ["realnvp-16", "dcgan-16", "vae-16", "beta_vae-16"]
    page.locator("#size-16 table.compare thead th", has_text="Run").locator("button").click()
    assert order(page) == ["vae-16", "beta_vae-16", "dcgan-16", "realnvp-16"]


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_screen(visit, width):
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        box = page.locator("#size-16 .scroll").first
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")


def test_the_theme_follows_the_system(visit):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(scheme=scheme).evaluate(background) for scheme in ("light", "dark"))
    assert sum(int(x) for x in light[4:-1].split(",")) > 600 > 150 > sum(int(x) for x in dark[4:-1].split(","))


def test_pictures_are_shown_again_and_enlarged(visit):
    page = visit()
    first = page.locator("#run-vae-16 .shot img").last
    assert first.evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.locator("[data-same]").evaluate_all("all => all.every(each => each.querySelector('img, svg'))")
    picture = page.locator("#shot-vae-16-samples img")
    picture.click()
    enlarged = page.locator("dialog img")
    assert enlarged.bounding_box()["width"] > picture.bounding_box()["width"]
    enlarged.click()
    assert not enlarged.is_visible()
