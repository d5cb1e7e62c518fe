import os
import shutil

import pytest

from visage.report.table import COLUMNS

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

    def go(width=1400, scheme="light", folder=project / "report", missing=False, **more):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        page.on("console", lambda message: None if missing else said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.set_default_timeout(120_000)  # the machine may be busy with other tests
        page.goto((folder / "index.html").as_uri())
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert said == []


GAUSSIAN = "One Gaussian, 16 × 16 pixels"
PCA = "PCA, 64 numbers, 16 × 16 pixels"


def order(page):
    return page.eval_on_selector_all(
        "#size-16 table.compare tbody tr", "rows => rows.map(row => row.dataset.run || row.textContent.trim())"
    )


def test_sorting_ranks_within_a_kind_only(visit):
    page = visit()
    head = page.locator("#size-16 table.compare th[data-key=bits_per_dim]")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    ranked = ["exact", "realnvp-16", GAUSSIAN, "upper bound", "vae-16", "beta_vae-16", "not defined", "dcgan-16", PCA]
    assert order(page) == ranked
    head.locator("button").click()
    assert order(page) == ["exact", GAUSSIAN, "realnvp-16", *ranked[3:4], "beta_vae-16", "vae-16", *ranked[6:]]
    page.locator("#size-16 table.compare thead th", has_text="Parameters").locator("button").click()
    assert order(page) == ["counted", "realnvp-16", "dcgan-16", "vae-16", "beta_vae-16", "not defined", GAUSSIAN, PCA]
    page.locator("#size-16 table.compare thead th", has_text="Model").locator("button").click()
    assert order(page) == ["vae-16", "beta_vae-16", "dcgan-16", "realnvp-16", GAUSSIAN, PCA]


def shown(page):
    heads = page.locator("#size-16 table.compare th[data-key]:not([hidden])")
    return set(heads.evaluate_all("all => all.map(th => th.dataset.key)"))


@pytest.mark.long
def test_groups_of_columns_are_switched(visit):
    page = visit()
    headline = {column.key for column in COLUMNS if column.headline}
    heard_of = page.locator("#size-16 table.compare th[data-key]").count()
    assert shown(page) == headline
    page.locator("#size-16 [data-view=latents]").click()
    assert shown(page) == {
        *("probe_auroc", "mig", "sap"),
        *("dci_disentanglement", "dci_completeness", "dci_informativeness"),
    }
    pressed = page.locator("#size-16 [aria-pressed=true]")
    assert [pressed.count(), pressed.inner_text()] == [1, "Latents"]
    notes = page.locator("#size-16 .notes li:visible").all_inner_texts()
    assert notes == ["a GAN defines no density"]  # not those of columns that are hidden
    page.locator("#size-16 [data-view=all]").click()
    assert len(shown(page)) == heard_of
    # headings of kinds reach over what is shown, whichever comes first
    page.locator("#size-16 th[data-key=bits_per_dim] button").click()
    page.locator("#size-16 [data-view=headline]").click()
    assert page.locator("#size-16 tr.group th").first.evaluate("th => th.colSpan") == 1 + len(headline)


@pytest.mark.parametrize("how", ["click", *(pytest.param(how, marks=pytest.mark.long) for how in ("Enter", "tap"))])
def test_a_number_opens_its_protocol(visit, how):
    page = visit(390 if how == "tap" else 1400, has_touch=how == "tap")
    number = page.locator('#size-16 [data-number="beta_vae-16|recon_mse"]')
    dialog = page.locator("#protocol")
    if how == "click":
        number.click()
    elif how == "tap":
        number.tap()
    else:
        number.focus()
        page.keyboard.press("Enter")
    terms = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
    assert float(terms["Value"]) == pytest.approx(0.0123, abs=0.0003)
    assert len(terms["Value"]) > 12  # all its digits
    assert (terms["Kind"], terms["n"]) == ("exact", "400 (indicative: fewer than 1000)")
    assert (terms["Data hash"], terms["Model hash"]) == ("d" * 64, "e" * 64)
    assert (terms["DVC"], terms["MLflow run"]) == ("dvc repro evaluate@beta_vae-16-0", "beta_vae-16-0")
    assert terms["Beside others"].startswith("tied with the best, vae-16: differs by")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert number.evaluate("button => button === document.activeElement")


@pytest.mark.long
def test_a_figure_without_a_model_has_its_protocol(visit):
    page = visit()
    page.locator('#size-16 [data-number="No model, 16 × 16 pixels|fd_attr128_floor"]').click()
    text = page.locator("#protocol").inner_text()
    assert "No model, 16 × 16 pixels: FD attr, floor" in text
    assert "dvc repro reference" in text
    assert "MLflow run" not in text


def test_the_protocol_of_a_dash_and_of_several_seeds(visit):
    page = visit()
    page.locator('#size-16 [data-number="dcgan-16|bits_per_dim"]').click()
    assert "a GAN defines no density" in page.locator("#protocol").inner_text()
    page.locator("#protocol form button").click()
    page.locator('#size-16 [data-number="vae-16|psnr"]').first.evaluate("button => button.click()")
    text = page.locator("#protocol").inner_text()
    assert "Mean\n19.42" in text
    assert text.index("Seed 0") < text.index("vae-16-0") < text.index("Seed 1") < text.index("vae-16-1")


@pytest.mark.long
def test_a_link_opens_the_run(visit):
    page = visit()
    run = page.locator("#run-dcgan-16")
    assert run.get_attribute("open") is None
    page.locator("#size-16 tr[data-run=dcgan-16] th a").click()
    page.wait_for_function("document.getElementById('run-dcgan-16').open")
    cut = run.locator(".cut").first
    small = cut.bounding_box()["width"]
    cut.click()
    assert page.locator("#enlarged .cut").bounding_box()["width"] == pytest.approx(3 * small)


@pytest.mark.parametrize("width", [390, pytest.param(1400, marks=pytest.mark.long)])
def test_nothing_is_wider_than_the_screen(visit, width):
    page = visit(width)
    page.locator("#size-16 [data-view=all]").click()
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        box = page.locator("#size-16 .scroll").first
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")


@pytest.mark.long
def test_the_theme_follows_the_system(visit):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(scheme=scheme).evaluate(background) for scheme in ("light", "dark"))
    assert sum(int(x) for x in light[4:-1].split(",")) > 600 > 150 > sum(int(x) for x in dark[4:-1].split(","))


@pytest.mark.long
def test_pictures_are_shown_again_and_enlarged(visit):
    page = visit()
    first = page.locator("#run-vae-16 .shot img").last
    assert first.evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.locator("[data-same]").evaluate_all("all => all.every(each => each.querySelector('img, svg'))")
    picture = page.locator("#shot-vae-16-samples img")
    picture.click()
    enlarged = page.locator("#enlarged img")
    assert enlarged.bounding_box()["width"] > picture.bounding_box()["width"]
    enlarged.click()
    assert not enlarged.is_visible()


@pytest.mark.long
def test_pictures_load_when_they_are_looked_at_and_show_one_face_each(visit):
    page = visit()
    face = page.locator("#run-beta_vae-16 .cut").nth(5)
    assert not face.evaluate("image => image.complete")
    page.evaluate("location.hash = 'run-beta_vae-16'")
    face.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth", arg=face.element_handle())
    box = face.bounding_box()
    assert box["height"] / box["width"] == pytest.approx(33 / 16, rel=0.01)  # a face of 16 pixels over another one
    strip = face.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert strip == [16 * 16, 33]
    # as high as its box, so that one face fills its width
    assert strip[0] * box["height"] / strip[1] == pytest.approx(16 * box["width"], rel=0.01)


@pytest.mark.long
def test_the_page_without_its_folder_says_what_is_missing(visit, project, tmp_path):
    shutil.copy(project / "report/index.html", tmp_path)
    page = visit(folder=tmp_path, missing=True)
    picture = page.locator("#shot-vae-16-samples")
    picture.scroll_into_view_if_needed()
    picture.locator(".absent").wait_for()
    assert "images/vae-16-0/samples.webp is not beside this page" in picture.inner_text()
    page.evaluate("location.hash = 'run-vae-16'")
    face = page.locator("#run-vae-16 .face").first
    face.scroll_into_view_if_needed()
    face.locator(".absent").wait_for()
    assert "Face 000001.jpg" in face.inner_text()
