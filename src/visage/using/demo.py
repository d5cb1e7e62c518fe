"""A page in the browser on which people try a trained model: sliders over its codes, samples, their own photographs.

The page is served to this machine alone. It has a tab for each thing that the model can do, and says of the others why
not.
"""

import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.errors import UserError
from visage.models.base import (
    Decodes,
    Encodes,
    Guides,
    Inpaints,
    Reconstructs,
    Samples,
    SamplesGiven,
    Translates,
    can,
    find,
    reason,
)
from visage.pictures import grid
from visage.report.wording import plain
from visage.using.catalogue import title
from visage.using.films import save_film
from visage.using.loaded import LoadedModel
from visage.using.photos import square

Pixels = NDArray[np.uint8]
HOST = "127.0.0.1"
LARGE = 384
"""Side of the single face, in pixels of the page."""
MOST = 64
"""Samples in one picture."""
REACH = 3.0
"""Ends of the sliders: standard deviations, or times the difference that an attribute makes."""
TEMPORARY = "GRADIO_TEMP_DIR"
CSS = """
.gradio-container { max-width: 1240px !important; width: 100% !important; margin: 0 auto !important; overflow: clip; }
.gradio-container main, .gradio-container .wrap.sidebar-parent { width: 100%; }
#head h1 { font-size: 1.9rem; line-height: 1.2; margin: .4rem 0 .1rem; }
#head p { margin: 0; opacity: .75; }
#cannot { font-size: .85rem; opacity: .8; }
img { image-rendering: pixelated; }
#face { max-width: 384px; margin: 0 auto; }
#sliders, #attributes { padding: 0; }
#attributes { max-height: 430px; overflow-y: auto; }
#explore .head { align-items: center; }
#explore .head label,
#explore .head label span { white-space: nowrap; font-size: .76rem; min-width: 0; overflow: hidden; }
#explore .head input { width: 3.2em; padding: 2px 4px; }
#explore .min_value, #explore .max_value { display: none; }
@media (max-width: 640px) {
  #explore > .column:first-child { display: contents; }
  #explore .head .tab-like-container { display: none; }
  #explore .form > .block { min-width: 130px !important; }
  #face { position: sticky; top: 0; z-index: 100; height: 200px !important; max-width: 200px; }
}
"""
OWN_ORIGIN = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""The browser's order to load nothing from other hosts."""


def serve(model: LoadedModel, port: int, *, open_browser: bool, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    port: on the loopback interface. ready: called with the page's address once it answers.

    Raises:
        UserError: the package is missing, the port is taken, or the model can do nothing of what the page offers.
    """
    _free(port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), HOST)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that photographs are removed then, too
    with tempfile.TemporaryDirectory(prefix="visage-demo-") as uploads:
        os.environ[TEMPORARY] = uploads
        page, look = build(model)
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            max_file_size="64mb",
            **look,
        )
        try:
            ready(address)
            if open_browser:
                webbrowser.open(address)
            Event().wait()
        except KeyboardInterrupt:
            pass  # which is how it ends
        finally:
            page.close(verbose=False)


def _free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} cannot be used ({error}): choose another one with --port") from error


def build(model: LoadedModel) -> tuple[Any, dict[str, Any]]:
    """The page, and what it looks like, for gradio's `launch`.

    Raises:
        UserError: the package is missing, or the model can do nothing of what the page offers.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the demo needs the package gradio: `uv sync --extra demo`") from error
    tabs: list[tuple[str, Callable[[Any, Any, LoadedModel], None], str]] = [
        ("Codes", _codes, _no_codes(model)),
        ("Samples", _samples, reason(model.model, Samples)),
        ("Your photo", _reconstruct, reason(model.model, Reconstructs)),
        ("Walk", _walk, reason(model.model, Decodes)),
        ("Translation", _translate, reason(model.model, Translates)),
        ("Hidden parts", _inpaint, reason(model.model, Inpaints)),
    ]
    if all(why for _, _, why in tabs):
        raise UserError(f"{model.name} draws no images: there is nothing to show; `visage score` asks it for numbers")
    kind = find(model.config.model)
    with gr.Blocks(title=f"{model.name}, Visage", analytics_enabled=False) as page:
        what = title(kind)
        about = f"{what[:1].upper()}{what[1:]} · {kind.paper} · {model.size} × {model.size} pixels"
        gr.HTML(f"<h1>{escape(model.name)}</h1><p>{escape(about)}</p>", elem_id="head")
        with gr.Tabs():
            for name, fill, why in tabs:
                if not why:
                    with gr.Tab(name):
                        fill(gr, page, model)
        missing = "".join(f"<br>{name}: {escape(why)}." for name, _, why in tabs if why)
        if missing:
            gr.HTML(f"What this model has no tab for, and why.{missing}", elem_id="cannot")
    sans, mono = ["ui-sans-serif", "system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    look = {
        "theme": gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=sans, font_mono=mono).set(
            body_background_fill="*neutral_100",
            block_border_width="1px",
            block_title_background_fill="transparent",
            block_title_padding="0",
            block_title_text_color="*body_text_color",
        ),
        "css": CSS,
        "head": f'<meta http-equiv="Content-Security-Policy" content="{OWN_ORIGIN}">',
    }
    return page, look


def _no_codes(model: LoadedModel) -> str:
    """Why there are no sliders; "" where there are."""
    lacking = next((one for one in (Encodes, Decodes) if not can(model.model, one)), None)
    if lacking is not None:
        return reason(model.model, lacking)
    try:
        found = model.directions
    except UserError as error:
        return str(error)
    return "" if len(found.principal) else "its codes do not vary"


# --- tabs


def _codes(gr: Any, page: Any, model: LoadedModel) -> None:
    """Sliders that move a code along the principal directions and along attributes."""
    found = model.directions
    k = len(found.principal)

    def show(start: NDArray[np.float32], *moves: float) -> Image.Image:
        amounts = np.asarray(moves, np.float32)
        code = start + amounts[:k] @ found.principal + amounts[k:] @ found.attributes
        return _large(model.decode(code[None])[0])

    def from_photo(path: str | None) -> NDArray[np.float32]:
        if path is None:  # it was taken out of the box
            return from_seed(0)
        code: NDArray[np.float32] = model.encode(_photo(model, path))[0]
        return code

    def from_seed(seed: float | None) -> NDArray[np.float32]:
        code: NDArray[np.float32] = model.prior(1, seed=_whole(seed))[0]
        return code

    with gr.Row(elem_id="explore"):
        with gr.Column(scale=2, min_width=300):
            face = gr.Image(
                _large(model.decode(from_seed(0)[None])[0]),
                show_label=False,
                interactive=False,
                format="png",
                buttons=["download", "fullscreen"],
                height=LARGE,
                elem_id="face",
            )
            with gr.Row():
                seed = gr.Number(0, label="Random face", precision=0, minimum=0, step=1, min_width=120)
                again = gr.Button("All sliders to 0", min_width=120)
            photo = _photo_box(gr, "Or your photo")
        with gr.Column(scale=3, min_width=300):
            gr.Markdown("**Where faces vary most**, in standard deviations; per cent of the variance")
            with gr.Row(elem_id="sliders"):
                moves = [_slider(gr, f"{i} · {100 * share:.1f} %", 160) for i, share in enumerate(found.share, 1)]
            if found.names:
                gr.Markdown("**Attributes**; 1 is as much as faces with and without it differ")
                with gr.Row(elem_id="attributes"):
                    moves += [_slider(gr, plain(name), 200) for name in found.names]
    start = gr.State(from_seed(0))
    quietly = {"show_progress": "hidden", "trigger_mode": "always_last", "queue": True, "api_visibility": "private"}
    for move in moves:
        move.input(_asked(gr, show), [start, *moves], face, **quietly)
    for source, make in ((seed, from_seed), (photo, from_photo)):
        source.input(_asked(gr, make), source, start, api_visibility="private").success(
            _asked(gr, show), [start, *moves], face, **quietly
        )
    again.click(lambda: [0] * len(moves), None, moves, api_visibility="private").success(
        _asked(gr, show), [start, *moves], face, **quietly
    )


def _samples(gr: Any, page: Any, model: LoadedModel) -> None:
    """Samples by seed, and what this model lets people ask for."""
    asked = list(model.attributes) if can(model.model, SamplesGiven) else []
    guided = bool(asked) and isinstance(model.model, Guides)
    usual = "as it was configured"

    def draw(
        n: float, seed: float | None, variant: str, given: bool, names: Sequence[str], guidance: float
    ) -> Image.Image:
        wanted = dict.fromkeys(names, True) if given else None
        other = None if variant == usual else variant
        strength = guidance if guided and given else None
        images = model.sample(int(n), seed=_whole(seed), attributes=wanted, variant=other, guidance=strength)
        return grid(images, min(len(images), max(4, round(len(images) ** 0.5))))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            n = gr.Slider(1, MOST, 16, step=1, label="Faces")
            seed = gr.Number(0, label="Seed", info="The same seed gives the same faces", precision=0, minimum=0)
            variant = gr.Dropdown(
                [usual, *model.variants], value=usual, label="How it samples", visible=bool(model.variants)
            )
            given = gr.Checkbox(False, label="Choose the attributes", visible=bool(asked))
            names = gr.CheckboxGroup([(plain(name), name) for name in asked], label="Attributes", visible=bool(asked))
            guidance = gr.Slider(0, 8, 2, step=0.5, label="Guidance, of chosen attributes", visible=guided)
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2, min_width=300):
            shown = gr.Image(show_label=False, interactive=False, format="png", buttons=["download", "fullscreen"])
    _at_once(page, model, button.click, _asked(gr, draw), [n, seed, variant, given, names, guidance], shown)


def _reconstruct(gr: Any, page: Any, model: LoadedModel) -> None:
    """A photograph, and what the model makes of it."""

    def rebuild(path: str | None) -> tuple[list[tuple[Image.Image, str]], str]:
        seen = _photo(model, path)
        made = model.reconstruct(seen)
        return [(_large(seen[0]), "what the model sees"), (_large(made[0]), "its reconstruction")], _error(seen, made)

    _from_photo(gr, rebuild, "The photograph is cut to its centred square: the face should fill it.", "Reconstruct")


def _translate(gr: Any, page: Any, model: LoadedModel) -> None:
    """A photograph as a face of either kind."""
    assert isinstance(model.model, Translates)
    kinds = list(model.model.domains)

    def translate(path: str | None) -> tuple[list[tuple[Image.Image, str]], str]:
        seen = _photo(model, path)
        both = [(_large(model.translate(seen, kind)[0]), f"as {plain(kind)}") for kind in kinds]
        return [(_large(seen[0]), "what the model sees"), *both], ""

    _from_photo(gr, translate, f"From and to {' and '.join(map(plain, kinds))}.", "Translate")


def _inpaint(gr: Any, page: Any, model: LoadedModel) -> None:
    """A photograph with parts of it hidden and filled in."""

    def fill(path: str | None) -> tuple[list[tuple[Image.Image, str]], str]:
        seen = _photo(model, path)
        filled, hidden = model.inpaint(seen)
        masked = seen.copy()
        masked[hidden] = 128
        return [
            (_large(masked[0]), "what the model sees"),
            (_large(filled[0]), "filled in"),
            (_large(seen[0]), "the photograph"),
        ], ""

    _from_photo(gr, fill, "Parts of the photograph are hidden at random.", "Hide and fill in")


def _walk(gr: Any, page: Any, model: LoadedModel) -> None:
    """A walk between two codes, of photographs or of random faces, as a film and as a strip."""
    encodes = can(model.model, Encodes)

    def walk(first: str | None, second: str | None, seed: float | None, frames: float) -> tuple[str, Image.Image]:
        if (first is None) != (second is None):
            raise UserError("a walk needs two photographs, or none for random faces")
        if first is None:
            codes = model.prior(2, seed=_whole(seed))
        else:
            codes = model.encode(np.concatenate([_photo(model, first), _photo(model, second)]))
        images = model.walk(codes[0], codes[1], int(frames))
        with tempfile.NamedTemporaryFile(dir=os.environ.get(TEMPORARY), suffix=".gif", delete=False) as file:
            film = Path(file.name)
        save_film(np.concatenate([images, images[-2:0:-1]]), film)
        return str(film), grid(images, min(len(images), 12))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            with gr.Row(visible=encodes):
                first, second = _photo_box(gr, "From"), _photo_box(gr, "To")
            words = "Without photographs it walks between random faces" if encodes else "Of the two random faces"
            seed = gr.Number(0, label="Seed", info=words, precision=0, minimum=0)
            frames = gr.Slider(3, 36, 12, step=1, label="Steps")
            button = gr.Button("Walk", variant="primary")
        with gr.Column(scale=2, min_width=300):
            film = gr.Image(show_label=False, interactive=False, height=LARGE, type="filepath", buttons=["download"])
            strip = gr.Image(show_label=False, interactive=False, format="png", buttons=["download", "fullscreen"])
    _at_once(page, model, button.click, _asked(gr, walk), [first, second, seed, frames], [film, strip])


# --- what tabs share


def _at_once(page: Any, model: LoadedModel, click: Any, answer: Callable[..., Any], given: Any, shown: Any) -> None:
    """Have the answer at a click, and already when the page opens, from a model that takes no time."""
    click(answer, given, shown, api_visibility="private")
    if model.model.sample_calls == 1:
        page.load(answer, given, shown, api_visibility="private")


def _from_photo(gr: Any, make: Callable[[str | None], Any], words: str, verb: str) -> None:
    """A tab that makes pictures of a photograph."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photo = _photo_box(gr, "Your photo")
            gr.Markdown(words)
            button = gr.Button(verb, variant="primary")
        with gr.Column(scale=2, min_width=300):
            shown = gr.Gallery(
                show_label=False, columns=3, height="auto", object_fit="contain", interactive=False, format="png"
            )
            said = gr.Markdown()
    button.click(_asked(gr, make), photo, [shown, said], api_visibility="private")
    photo.input(
        _asked(gr, lambda path: make(path) if path else ([], "")), photo, [shown, said], api_visibility="private"
    )


def _photo_box(gr: Any, label: str) -> Any:
    """Where a photograph is dropped or taken; its path is given on unread: `_photo` says what is wrong with it."""
    box = gr.Image(label=label, sources=["upload", "webcam", "clipboard"], height=220, type="filepath", min_width=120)
    box.preprocess = lambda payload: None if payload is None else payload.path
    return box


def _asked(gr: Any, answer: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with what a user can do about it as a message on the page."""

    def ask(*given: Any) -> Any:
        try:
            return answer(*given)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return ask


def _photo(model: LoadedModel, path: str | None) -> Pixels:
    """The photograph as the model sees it, (1, size, size, 3); errors call it by its name, not by where it was put."""
    if path is None:
        raise UserError("there is no photograph yet: drop one into the box")
    try:
        return square(path, model.size)
    except UserError as error:
        raise UserError(str(error).replace(path, Path(path).name)) from error


def _whole(seed: float | None) -> int:
    return int(seed or 0)


def _large(image: Pixels) -> Image.Image:
    """One image, enlarged pixel by pixel."""
    factor = max(1, LARGE // len(image))
    return Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))


def _slider(gr: Any, label: str, width: int) -> Any:
    return gr.Slider(-REACH, REACH, 0, step=0.1, label=label, min_width=width, buttons=[])


def _error(seen: Pixels, made: Pixels) -> str:
    difference = np.square((seen.astype(np.float64) - made) / 255).mean()
    return f"Mean squared error {difference:.4f}, pixels in [0, 1]"
