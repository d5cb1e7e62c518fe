"""Drawn clothes in the files that Fashion-MNIST has, for where nothing can be downloaded.

Ten classes of 28x28 gray pictures, in the order of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): T-shirt, trouser,
pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot. The garment fills the frame and all around it is 0.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from visage.data import idx
from visage.data.idx import SIDE
from visage.data.request import Found, Request
from visage.errors import UserError
from visage.files import replacing

TITLE = "drawn clothes"
COUNT = 10_000
"""As many as Fashion-MNIST has test images."""
SCALE = 4
"""Pictures are drawn this many times larger, then averaged down."""

Point = tuple[float, float]


def check(root: str | None) -> None:
    """They are drawn, not read."""
    if root is not None:
        raise UserError(f"params.yaml: ood: drawn_clothes takes no root, got {root}: leave it empty")


def get(request: Request) -> Found:
    """Draw the clothes."""
    draw_clothes(request.target, COUNT, request.seed)
    return Found(request.target, "drawn")


def images(folder: Path) -> NDArray[np.uint8]:
    """(N, 28, 28) uint8."""
    return idx.read(idx.find(folder))


# --- drawing ----------------------------------------------------------------------------------------------------------


class Cloth:
    """A garment while it is drawn: where there is cloth, and its shade. Coordinates are pixels of the finished picture.

    u: uniform random numbers in [0, 1), taken one after the other.
    """

    def __init__(self, u: Sequence[float]) -> None:
        self.numbers = iter(u)
        size = (SIDE * SCALE, SIDE * SCALE)
        self.mask = Image.new("L", size)
        self.cut = ImageDraw.Draw(self.mask)
        self.tone = round(self.between(70, 245))
        self.shade = Image.new("L", size, self.tone)
        self.pen = ImageDraw.Draw(self.shade)

    def between(self, low: float, high: float) -> float:
        """The next random number, uniform on [low, high)."""
        return low + (high - low) * next(self.numbers)

    def near(self, tone: float) -> int:
        """A shade lighter by `tone`, or darker where the cloth is light already."""
        return round(min(255, max(12, self.tone - tone if self.tone > 150 else self.tone + tone)))

    def add(self, points: Sequence[Point], tone: int | None = None, erase: bool = False) -> None:
        """Add a piece of cloth, or cut it away; tone: the shade of this piece."""
        outline = [(round(x * SCALE), round(y * SCALE)) for x, y in points]
        self.cut.polygon(outline, 0 if erase else 255)
        if tone is not None:
            self.pen.polygon(outline, tone)

    def add_mirrored(self, half: Sequence[Point], tone: int | None = None, erase: bool = False) -> None:
        """As `add`, for an outline given by its right half: x counts from the middle."""
        self.add([*((14 + x, y) for x, y in half), *((14 - x, y) for x, y in half[::-1])], tone, erase)

    def seam(self, points: Sequence[Point], tone: int, width: float = 0.5) -> None:
        """Draw a line on the cloth."""
        self.pen.line([(round(x * SCALE), round(y * SCALE)) for x, y in points], tone, max(1, round(width * SCALE)))

    def strap(self, points: Sequence[Point], tone: int, width: float) -> None:
        """A narrow piece of cloth."""
        self.seam(points, tone, width)
        self.cut.line([(round(x * SCALE), round(y * SCALE)) for x, y in points], 255, round(width * SCALE))

    def weave(self) -> None:
        """Folds, and for some cloth stripes, checks, dots or a print."""
        kind = int(self.between(0, 9))
        other, step = self.near(self.between(25, 110)), self.between(2, 5)
        rows = [k * step for k in range(round(SIDE / step) + 1)]
        if kind in (0, 1):
            for y in rows:
                self.seam([(0, y), (28, y)], other, step * 0.4)
        if kind in (1, 2):
            for x in rows:
                self.seam([(x, 0), (x, 28)], other, step * 0.3)
        if kind == 3:
            for i, x in enumerate(rows):
                for y in rows:
                    at = (round(x * SCALE), round((y + step / 2 * (i % 2)) * SCALE))
                    self.pen.ellipse([*at, at[0] + round(1.6 * step), at[1] + round(1.6 * step)], other)
        if kind == 4:
            x, y = self.between(9, 11), self.between(9, 12)
            self.pen.rectangle([round(v * SCALE) for v in (x, y, 28 - x, y + self.between(3, 7))], other)
        for _ in range(4):
            x, lean = self.between(4, 24), self.between(-3, 3)
            self.seam([(x, 4), (x + lean, 28)], round(self.tone * self.between(0.75, 1.0)), 0.8)

    def finish(self) -> bytes:
        """The 28x28 bytes, row by row; round as a body is: darker to the edges."""
        rim = ImageChops.multiply(self.shade, ROUNDNESS)
        return Image.composite(rim, Image.new("L", rim.size), self.mask).reduce(SCALE).tobytes()


ROUNDNESS = (
    Image.radial_gradient("L").resize((SIDE * SCALE, SIDE * SCALE)).point([255 - v * v // 900 for v in range(256)])
)


def draw_upper(c: Cloth, sleeve: float, hem: float, neck: float) -> None:
    """The body and sleeves of a top. sleeve: 0 none to 1 down to the hem."""
    c.weave()
    width, shoulder = c.between(6.8, 8.4), c.between(6.5, 8)
    spread = c.between(1, 3.5)
    drop = 5 + 18 * sleeve
    reach = min(13.8, shoulder + 1.2 + spread + 2 * sleeve)
    arm = [(reach, drop), (reach - 3.4, drop + 0.8), (width, 9.5)] if sleeve > 0.05 else [(shoulder - 0.5, 7)]
    c.add_mirrored([(0, 1.2 + 0.3 * neck), (neck, 0.6), (shoulder, 2.2), *arm, (width, hem), (0, hem + 0.4)])
    c.seam([(14 - width, 10), (14 - width - 0.5, 22)], c.near(45), 0.6)
    c.seam([(14 + width, 10), (14 + width + 0.5, 22)], c.near(45), 0.6)
    c.add_mirrored([(neck - 0.4, 0), (neck * 0.5, 0.5 + 0.5 * neck), (0, 0.6 + 0.6 * neck)], erase=True)


def draw_t_shirt(c: Cloth) -> None:
    """Short sleeves."""
    draw_upper(c, c.between(0.1, 0.3), c.between(25, 27.5), c.between(2.5, 4.5))


def draw_trouser(c: Cloth) -> None:
    """Two legs."""
    c.weave()
    waist, flare, gap = c.between(4, 5.5), c.between(4.5, 7), c.between(1, 2.2)
    c.add_mirrored([(0, 0.4), (waist, 0.4), (waist + 1.2, 8), (flare, 27.6), (gap, 27.6), (0.3, c.between(9, 12))])
    c.seam([(8, 1.8), (20, 1.8)], c.near(60))


def draw_pullover(c: Cloth) -> None:
    """Long sleeves, with ribs at neck and hem."""
    draw_upper(c, c.between(0.85, 1), c.between(24, 27), c.between(2.5, 4))
    c.seam([(3, 24), (25, 24)], c.near(40), 1)
    c.seam([(10.5, 2), (12, 3.4), (16, 3.4), (17.5, 2)], c.near(50), 0.8)


def draw_dress(c: Cloth) -> None:
    """A bodice, a waist and a skirt."""
    c.weave()
    bust, waist, skirt = c.between(4, 5.5), c.between(3, 4.6), c.between(5, 9.5)
    neck, cap = c.between(1.5, 3), c.between(0, 3.5)
    c.add_mirrored(
        [(0, 3.5), (neck, 0.4), (neck + 1.6, 0.6), (bust + cap, 5 + cap), (bust, 7), (waist, 11), (skirt, 27.6)]
    )
    c.seam([(14 - waist, 11), (14 + waist, 11)], c.near(60), 0.7)


def draw_coat(c: Cloth) -> None:
    """Long sleeves, open in front, with lapels."""
    draw_upper(c, c.between(0.85, 1), 27.6, c.between(2, 3.5))
    c.seam([(14, 1), (14, 28)], c.near(90), 0.9)
    c.seam([(11, 0.8), (13.6, 9)], c.near(60), 0.7)
    c.seam([(17, 0.8), (14.4, 9)], c.near(60), 0.7)


def draw_sandal(c: Cloth) -> None:
    """A sole with straps, on a heel or flat."""
    heel = c.between(-6, 6)
    back = 20 - max(heel, 0) * 1.2
    ball = c.between(8, 11)
    dark = c.near(70)
    c.add([(1, 21), (ball, 20.5), (26.5, back), (27, back + 1.4), (ball + 2, 22), (1.5, 22.4)], dark)
    if heel > 0:
        c.add([(25, back), (27, back), (26.6, 22.6), (25.6, 22.6)], dark)
    for _ in range(3):
        x, reach, width = c.between(3, 17), c.between(3, 7), c.between(0.8, 1.8)
        near, far = (20.8 - max(0.0, at - ball) / 16 * (20 - back) for at in (x, x + reach))
        c.strap([(x, near), (x + reach * 0.6, min(near, far) - c.between(1.5, 5)), (x + reach, far)], c.tone, width)
    c.strap([(26, back), (24.5, back - 5), (20, back - 4.5)], c.tone, 1)


def draw_shirt(c: Cloth) -> None:
    """Sleeves of any length, a collar and buttons."""
    draw_upper(c, c.between(0.1, 1), c.between(25, 27.5), c.between(2, 3.5))
    c.seam([(14, 3), (14, 27)], c.near(30), 0.5)
    for y in range(5, 27, 4):
        c.seam([(14, y), (14.4, y + 0.5)], c.near(120), 0.8)
    c.seam([(11, 1), (13.8, 4), (17, 1)], c.near(70), 0.7)


def draw_sneaker(c: Cloth) -> None:
    """A low shoe, its toe to the left."""
    c.weave()
    top, toe = c.between(8, 11.5), c.between(14, 16.5)
    c.add(
        [
            (0.6, 19),
            (2, toe + 1.5),
            (8, toe - 0.8),
            (14, top + 2),
            (17, top),
            (20, top + 2),
            (25.5, top),
            (27.2, 18),
            (27.2, 20),
        ]
    )
    c.add([(0.5, 18.8), (27.4, 18.2), (27.3, 20.8), (2, 21)], c.near(c.between(50, 130)))
    for k in range(4):
        c.seam([(9.5 + 1.7 * k, toe - 1.2 - k), (11 + 1.7 * k, toe + 0.6 - k)], c.near(110), 0.5)
    c.seam([(16, 18), (19, 13), (24, 13)], c.near(c.between(30, 100)), 1)


def draw_bag(c: Cloth) -> None:
    """A bag with a handle, some with a flap."""
    c.weave()
    top, wide, foot = c.between(8, 13), c.between(9, 13.4), c.between(23, 27)
    arch, rise = c.between(3, 6.5), c.between(0.8, 5)
    c.strap(
        [
            (14 - arch, top + 1),
            (14 - arch * 0.8, rise + 2),
            (14, rise),
            (14 + arch * 0.8, rise + 2),
            (14 + arch, top + 1),
        ],
        c.tone,
        1,
    )
    c.add_mirrored([(0, top), (wide - c.between(0, 2.5), top), (wide, foot), (0, foot + 0.5)])
    if c.between(0, 1) > 0.5:
        c.pen.polygon([(4, top * 4), (108, top * 4), (96, (top + 6) * 4), (16, (top + 6) * 4)], c.near(35))
    c.seam([(13, top + 5.5), (15, top + 5.5)], c.near(120), 1.5)
    c.seam([(0, foot - 1.5), (28, foot - 1.5)], c.near(40), 0.6)


def draw_ankle_boot(c: Cloth) -> None:
    """A high shoe, its toe to the left, with a heel."""
    c.weave()
    top, shaft, heel = c.between(1, 6), c.between(12, 16), c.between(0, 3.5)
    c.add(
        [
            (1, 21.5),
            (2.5, 18),
            (9, 16),
            (shaft, 12),
            (shaft - 0.5, top),
            (26, top),
            (26.3, 12),
            (27, 20 - heel / 2),
            (26, 23 - heel),
            (12, 23),
            (1.2, 23),
        ]
    )
    dark = c.near(90)
    c.add([(21, 22 - heel), (27, 21 - heel), (26.5, 26), (22, 26)], dark)
    c.add([(1, 22), (13, 22.4), (21.5, 22 - heel), (21.5, 23.5 - heel / 2), (12, 24.2), (1.2, 24)], dark)
    c.seam([(18, top), (18.5, top + 8)], c.near(c.between(10, 60)), 1.6)


GARMENTS: tuple[Callable[[Cloth], None], ...] = (
    draw_t_shirt,
    draw_trouser,
    draw_pullover,
    draw_dress,
    draw_coat,
    draw_sandal,
    draw_shirt,
    draw_sneaker,
    draw_bag,
    draw_ankle_boot,
)
"""By label."""


def draw_garment(seed: int, index: int) -> bytes:
    """Picture `index` (from 0), whose label is index mod 10: 28x28 gray bytes, row by row."""
    cloth = Cloth(np.random.Generator(np.random.PCG64([seed, 3, index])).random(48).tolist())
    GARMENTS[index % len(GARMENTS)](cloth)
    return cloth.finish()


def draw_clothes(folder: Path, images: int, seed: int) -> None:
    """Draw clothes into `folder`, in the files of Fashion-MNIST's test set (IDX in gzip)."""
    pixels = b"".join(draw_garment(seed, i) for i in range(images))
    labels = bytes(i % len(GARMENTS) for i in range(images))
    _write_gzip(folder / idx.IMAGES, struct.pack(">IIII", 0x803, images, SIDE, SIDE) + pixels)
    _write_gzip(folder / idx.LABELS, struct.pack(">II", 0x801, images) + labels)


def _write_gzip(path: Path, data: bytes) -> None:
    """Write a gzip file (RFC 1952) of stored blocks: no compressor's version shows in its bytes."""
    step = 0xFFFF
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    with replacing(path) as temporary, temporary.open("wb") as f:
        f.write(b"\x1f\x8b\x08" + bytes(6) + b"\xff")
        for i, part in enumerate(parts):
            f.write(struct.pack("<BHH", i == len(parts) - 1, len(part), step - len(part)) + part)
        f.write(struct.pack("<II", zlib.crc32(data), len(data)))
