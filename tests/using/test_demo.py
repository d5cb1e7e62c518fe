"""The page on which people try a model, in a real browser."""

import io
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import visage
from tests.small_models import make_images
from visage.errors import UserError
from visage.using.demo import serve

pytest_plugins = ["tests.using.giving_project"]
CHROMIUM = os.environ.get("VISAGE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 120_000
"""Milliseconds: the machine may be busy with other tests."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """The page's address, and the folder for temporary files of its server."""
    pytest.importorskip("gradio")
    temporary, port = tmp_path_factory.mktemp("temporary"), free_port()
    words = [sys.executable, "-m", "visage.cli.main", "demo", exported, "--port", str(port), "--no-open"]
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, cwd=temporary, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip(), temporary
        finally:
            server.terminate()
    assert server.returncode == 0
    assert list(temporary.iterdir()) == [], "photographs stay behind"


@pytest.fixture
def page(served):
    """The page in a browser; all that it asked for is in `page.asked`."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: set VISAGE_CHROMIUM to try the page in one")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(served[0])
        page.wait_for_selector("#face img")
        yield page
        browser.close()


def changes(page, selector, act):
    """Do something that changes a picture, and wait until it has."""
    before = page.locator(selector).first.get_attribute("src") if page.locator(selector).count() else ""
    act()
    page.wait_for_function(
        "([s, before]) => document.querySelector(s) && document.querySelector(s).getAttribute('src') != before",
        arg=[selector, before],
    )


@pytest.mark.long
def test_people_try_the_model_in_a_browser_that_leaves_this_machine_alone(exported, served, page, tmp_path):
    address, _ = served
    photo, text = tmp_path / "me.png", tmp_path / "photo.jpg"
    Image.fromarray(make_images(1, seed=6)[0]).resize((90, 70)).save(photo)
    text.write_text("no image")
    assert page.get_by_role("tab").all_inner_texts()[:4] == ["Codes", "Samples", "Your photo", "Walk"]
    assert "Hidden parts: is not trained to fill in hidden parts." in page.locator("#cannot").inner_text()

    smiling = page.get_by_label("range slider for Smiling")
    changes(page, "#face img", lambda: smiling.fill("3"))
    shown = page.request.get(page.locator("#face img").get_attribute("src")).body()
    model = visage.load(exported)
    expected = model.decode(model.prior(1, seed=0) + 3 * model.directions.of("Smiling"))[0]
    found = np.asarray(Image.open(io.BytesIO(shown)))[:: 384 // model.size, :: 384 // model.size]
    np.testing.assert_array_equal(found, expected)
    changes(page, "#face img", lambda: page.locator("#explore input[type=file]").set_input_files(photo))
    page.get_by_role("tab", name="Your photo").click()
    page.locator(".tabitem:visible input[type=file]").set_input_files(photo)
    page.get_by_text("Mean squared error").first.wait_for()
    page.get_by_role("tab", name="Walk").click()
    page.wait_for_selector("img[src$='.gif']:visible")  # between random faces, before anybody asks
    first, second = page.locator(".tabitem:visible input[type=file]").all()
    first.set_input_files(photo)
    second.set_input_files(text)
    page.locator(".tabitem:visible img[src*='photo.jpg']").wait_for(state="attached")
    page.get_by_role("button", name="Walk").click()
    said = page.get_by_test_id("toast-text").first
    said.wait_for()
    assert said.inner_text().startswith("photo.jpg cannot be read: cannot identify image file")

    page.get_by_role("tab", name="Samples").click()
    page.get_by_label("range slider for Faces").fill("2")
    changes(page, ".tabitem:not([style*=none]) img:not(#face img)", page.get_by_role("button", name="Draw").click)

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert page.errors == []


@pytest.mark.long
def test_a_port_that_is_taken_is_named(exported):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used .*: choose another one with --port"):
            serve(visage.load(exported), port, open_browser=False, ready=print)
