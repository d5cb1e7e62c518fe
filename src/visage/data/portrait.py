"""Drawing a face from its factors, laid out as CelebA's aligned pictures are.

`draw_face` is a pure function of one `Factors`. Geometry is plain Python arithmetic and Pillow's integer drawing, so
that no processor's floating point shows in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from visage.data.celeba_format import IMAGE_SIZE
from visage.data.face_factors import Factors

Colour = tuple[int, int, int]
Point = tuple[float, float]

SCALE = 2
"""Pictures are drawn this many times larger and then averaged down, which smooths every edge."""
CENTRE = (88.5, 112.0)
"""Between the eyes, where the alignment of CelebA puts it."""
EYES = 111.0
"""Height of the eyes in the head's coordinates."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """From a (share 0) to b (share 1)."""
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def ramp(colours: Sequence[Colour], position: float) -> Colour:
    """The colour at position in [0, 1] of evenly spaced ones."""
    place = min(max(position, 0.0), 1.0) * (len(colours) - 1)
    i = min(int(place), len(colours) - 2)
    return mix(colours[i], colours[i + 1], place - i)


HUES: Sequence[Colour] = (
    (190, 60, 55),
    (205, 125, 55),
    (200, 170, 80),
    (95, 145, 75),
    (60, 140, 140),
    (60, 105, 170),
    (110, 80, 160),
    (175, 75, 120),
    (190, 60, 55),
)
SKINS: Sequence[Colour] = ((240, 206, 184), (236, 188, 158), (216, 160, 124), (168, 112, 80), (104, 68, 50))
HAIRS: Sequence[Colour] = ((220, 184, 124), (150, 104, 62), (84, 54, 36), (46, 32, 26), (24, 20, 22))
IRISES: Sequence[Colour] = ((70, 42, 26), (110, 76, 38), (92, 112, 62), (74, 120, 160), (120, 136, 146))
LIPSTICKS: Sequence[Colour] = ((222, 96, 84), (196, 30, 46), (126, 28, 68))
BLACK: Colour = (20, 16, 18)
WHITE: Colour = (255, 252, 246)


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one picture."""

    skin: Colour
    shadow: Colour  # of the skin, out of the light
    glint: Colour  # of the skin, in the light
    hair: Colour
    lips: Colour

    @classmethod
    def of(cls, f: Factors) -> "Palette":
        """Colours from the factors of skin, hair, age, lips and light."""
        skin = ramp(SKINS, f.skin)
        hair = mix(ramp(HAIRS, f.hair_dark), (158, 62, 28), 0.45 * f.hair_red * (1 - f.hair_dark))
        hair = mix(hair, (192, 188, 184), min(max((f.age - 0.7) / 0.25, 0), 1) * 0.85)
        deep = (round(skin[0] * 0.55), round(skin[1] * 0.45), round(skin[2] * 0.42))
        lips = mix(mix(skin, (176, 70, 72), 0.5), ramp(LIPSTICKS, f.lipstick_hue), 0.9 * f.lipstick)
        bright = (min(255, round(skin[0] * 1.25)), min(255, round(skin[1] * 1.25)), min(255, round(skin[2] * 1.2)))
        glint = mix(mix(skin, bright, 0.5 + 0.5 * f.contrast), WHITE, 0.1 + 0.1 * f.contrast)
        return cls(skin, mix(skin, deep, 0.45 + 0.4 * f.contrast), glint, hair, lips)


@cache
def glow_mask(level: int) -> Image.Image:
    """A round spot (64, 64) of values up to level / 20 of 255 that fades smoothly to nothing at its rim."""
    fade = [max(0.0, 1 - (v / 180) ** 2) for v in range(256)]  # the gradient is 181 at the middle of its sides
    return Image.radial_gradient("L").reduce(4).point([round(255 * level / 20 * t * t * (3 - 2 * t)) for t in fade])


@cache
def spline_weights(steps: int) -> list[tuple[float, float, float, float]]:
    """Catmull-Rom weights of four neighbouring points, at `steps` places between the middle two."""
    places = [i / steps for i in range(steps)]
    return [
        (
            (-t + 2 * t * t - t**3) / 2,
            (2 - 5 * t * t + 3 * t**3) / 2,
            (t + 4 * t * t - 3 * t**3) / 2,
            (t**3 - t * t) / 2,
        )
        for t in places
    ]


def smooth(points: Sequence[Point], closed: bool = False, steps: int = 5) -> list[Point]:
    """A curve through the points."""
    p = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    curve = []
    for (ax, ay), (bx, by), (cx, cy), (dx, dy) in zip(p, p[1:], p[2:], p[3:], strict=False):
        for a, b, c, d in spline_weights(steps):
            curve.append((a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy))
    return curve if closed else [*curve, points[-1]]


class Portrait:
    """A picture while it is drawn: the image, the pose of the head and its colours.

    The head's coordinates are pixels of the finished picture: x from its midline to the right, y from about the top,
    and a depth z: 0 at the eyes, 1 at the tip of the nose, negative behind. The eyes stay where the alignment puts
    them, so a turn of the head moves the rest around them.
    """

    def __init__(self, f: Factors) -> None:
        self.f = f
        self.palette = Palette.of(f)
        self.image = Image.new("RGB", (IMAGE_SIZE[0] * SCALE, IMAGE_SIZE[1] * SCALE))
        self.pen = ImageDraw.Draw(self.image)
        self.glaze = ImageDraw.Draw(self.image, "RGBA")  # blends; slower
        angle = math.radians(f.tilt)
        self.cos, self.sin = math.cos(angle), math.sin(angle)
        self.half = 42.5 + 4.5 * f.face_width + f.male  # half the width of the face
        self.chin = 180 + 4.5 * f.face_length + 1.5 * f.male
        self.face: Image.Image | None = None

    def at(self, x: float, y: float, z: float = 0.0) -> Point:
        """Where a point of the head lies in the picture."""
        x += 6.5 * self.f.yaw * z
        y += 4 * self.f.nod * z - EYES
        return (
            SCALE * (CENTRE[0] + x * self.cos - y * self.sin),
            SCALE * (CENTRE[1] + x * self.sin + y * self.cos),
        )

    def curve(self, points: Sequence[Point], z: float = 0.0, closed: bool = False, steps: int = 5) -> list[Point]:
        """A smooth curve through points of the head, in the picture."""
        return smooth([self.at(x, y, z) for x, y in points], closed, steps)

    def fill(self, outline: Sequence[Point], colour: Colour, alpha: float = 1.0) -> None:
        """Fill an outline in the picture."""
        if alpha < 1:
            self.glaze.polygon(outline, (*colour, round(255 * alpha)))
        else:
            self.pen.polygon(outline, colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float, alpha: float = 1.0) -> None:
        """Draw a line in the picture; width in pixels of the finished picture."""
        self.glaze.line(points, (*colour, round(255 * alpha)), round(width * SCALE))

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: float = 1.0, z: float = 0.0
    ) -> None:
        """Fill an upright ellipse around a point of the head."""
        cx, cy = self.at(x, y, z)
        box = [round(cx - rx * SCALE), round(cy - ry * SCALE), round(cx + rx * SCALE), round(cy + ry * SCALE)]
        self.glaze.ellipse(box, (*colour, round(255 * alpha)))

    def glow(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        strength: float,
        z: float = 0.0,
        clip: Image.Image | None = None,
        on: Image.Image | None = None,
    ) -> None:
        """Blend a soft elliptic spot around a point of the head, inside `clip`; `on` is a smaller image."""
        level = min(round(20 * strength), 20)
        if level <= 0:
            return
        image = on or self.image
        share = image.width / self.image.width
        cx, cy = self.at(x, y, z)
        left, top = round(cx * share - rx * SCALE * share), round(cy * share - ry * SCALE * share)
        size = (round(2 * rx * SCALE * share), round(2 * ry * SCALE * share))
        mask = glow_mask(level).resize(size, Image.Resampling.BILINEAR)
        if clip is not None:
            mask = ImageChops.multiply(mask, clip.crop((left, top, left + size[0], top + size[1])))
        image.paste(colour, (left, top), mask)

    def ribbon(
        self, a: Sequence[Point], b: Sequence[Point], colours: Sequence[Colour], z: float, curl: float = 0.0
    ) -> None:
        """Fill between two curves of as many points, in bands from a to b of uneven length, one of each colour.

        curl: how far the bands wave, in pixels.
        """
        first, last = self.curve(a, z), self.curve(b, z)
        n = len(colours)
        for k, colour in enumerate(colours):
            wave = [SCALE * curl * WAVES[(i + k) % len(WAVES)] for i in range(len(first))]
            edges = [
                [
                    (ax + (bx - ax) * t + w, ay + (by - ay) * t + w)
                    for (ax, ay), (bx, by), w in zip(first, last, wave, strict=True)
                ]
                for t in (k / n, min(1.0, (k + 1.5) / n))
            ]
            end = len(first) - 3 * k % 4 // 2
            self.fill([*edges[0][:end], *edges[1][:end][::-1]], colour)


WAVES = (0.0, 0.59, 0.95, 0.95, 0.59, 0.0, -0.59, -0.95, -0.95, -0.59)
"""One period of a sine."""


def draw_background(p: Portrait) -> None:
    """A few shapes in a tiny image, enlarged: out of focus for free."""
    f = p.f
    hue = ramp(HUES, f.background_hue)
    base = mix(mix((118, 116, 112), hue, 0.75 * f.background_colour), BLACK, 0.15)
    bright = 2 * f.background_bright - 1
    base = mix(base, WHITE if bright > 0 else BLACK, 0.92 * abs(bright))
    low = mix(base, BLACK, 0.25)
    tiny = Image.new("RGB", (44, 54), base)
    pen = ImageDraw.Draw(tiny, "RGBA")
    for y in range(54):
        pen.line([0, y, 43, y], mix(base, low, y / 53))
    kind = int(f.background)
    for k in range(10 if kind else 0):
        u, v, w = (
            (f.background_seed * (7 + 4 * j) + (k + 1) * step) % 1 for j, step in enumerate((0.618, 0.755, 0.57))
        )
        colour = mix(ramp(HUES, (f.background_hue + 0.5 * w) % 1), WHITE if v > 0.5 else BLACK, 0.45)
        tint = (*mix(base, colour, 0.3 + 0.5 * f.background_colour), 200)
        x, y = round(u * 48) - 4, round(v * 52) - 4
        if kind == 1:
            size = 3 + round(5 * w)
            pen.ellipse([x, y, x + size, y + size], (*mix(colour, WHITE, 0.4), 70 + round(90 * v)))
        elif kind == 2:
            pen.rectangle([x, y, x + 6 + round(10 * w), y + 8 + round(12 * v)], tint)
        else:
            pen.rectangle([x, 0, x + 1 + round(5 * w), 54], tint)
    if kind:
        tiny = tiny.filter(ImageFilter.BoxBlur(1))
    p.image.paste(tiny.resize(IMAGE_SIZE, Image.Resampling.BICUBIC).resize(p.image.size, Image.Resampling.NEAREST))


def hair_bands(p: Portrait, side: int) -> list[Colour]:
    """Colours of the bands of hair on one side of the parting, from the outside in."""
    hair = mix(p.palette.hair, BLACK, 0.1 - 0.08 * side * p.f.light)
    bright = mix(hair, (255, 226, 190), 0.16)
    dark = mix(hair, BLACK, 0.35)
    shades = (-0.6, -0.2, 0.3, 0.1, 0.8, 0.5, 1.0, 0.3, -0.2, 0.4, -0.3, -0.8)
    return [mix(hair, bright if s > 0 else dark, abs(s)) for s in shades]


def hair_sides(p: Portrait, side: int) -> tuple[list[Point], list[Point]]:
    """The outer and inner edge of the hair on one side (-1 left, 1 right), from the parting down."""
    f, w = p.f, p.half
    part = 0.45 * f.parting * w
    wide = w + 4 + 9 * f.hair_volume * min(1.0, 0.3 + 1.5 * f.hair_length)
    top, crown = (42.0, w + 2) if f.hat else (39 - 11 * f.hair_volume, wide)  # a hat presses it down
    end = 116 + 112 * max(f.hair_length - 0.15, 0)
    middle = (98 + end) / 2
    flare = 20 * max(f.hair_length - 0.25, 0) * (0.4 + 0.6 * f.hair_volume)
    line = 64 - 6 * f.hairline
    outer = [
        (part, top),
        (0.5 * part + side * 0.5 * crown, top + 5),
        (side * 0.87 * crown, top + 22),
        (side * wide, 90),
        (side * (wide + flare), middle),
        (side * (w + 1 + 0.6 * flare), end),
    ]
    inner = [
        (part, line),
        (0.5 * part + side * 0.45 * w, line + 3 - 3 * max(f.hairline, 0)),
        (side * 0.82 * w, line + 15),
        (side * (w - 3), 100),
        (side * (w - 2), middle),
        (side * (w - 1 - 4 * f.hair_length), end),
    ]
    return outer, inner


def draw_hair_back(p: Portrait) -> None:
    """The hair behind head and neck."""
    if p.f.bald:
        return
    left, right = hair_sides(p, -1)[0], hair_sides(p, 1)[0]
    dark = mix(p.palette.hair, BLACK, 0.45)
    p.fill(p.curve([*left[::-1], *right[1:]], -0.9), dark)


def draw_body(p: Portrait) -> None:
    """Neck and clothes; the shadow of the chin lies on the neck."""
    f, skin = p.f, p.palette
    neck = 22.5 + 5 * f.male
    outline = [
        (-neck, 150),
        (-neck - 1, 190),
        (-neck - 22, 206),
        (-80, 222),
        (80, 222),
        (neck + 22, 206),
        (neck + 1, 190),
    ]
    p.fill(p.curve([*outline, (neck, 150)], -0.6, closed=True), mix(skin.skin, skin.shadow, 0.35))
    for drop, share in ((16, 0.2), (12, 0.25), (8, 0.3), (4, 0.4)):
        below = [
            (-neck, 150),
            (-neck, p.chin + 0.4 * drop),
            (0, p.chin + drop),
            (neck, p.chin + 0.4 * drop),
            (neck, 150),
        ]
        p.fill(p.curve(below, -0.6), skin.shadow, share)
    cloth = mix(mix(ramp(HUES, f.clothes_hue), (110, 108, 110), 0.5), BLACK, 0.75 - 0.6 * f.clothes_bright)
    cloth = mix(cloth, WHITE, max(0, f.clothes_bright - 0.6))
    body = [(-120, 230), (-72, 206), (-neck - 12, 197), (-neck + 4, 204), (0, 222), (neck - 4, 204), (neck + 12, 197)]
    p.fill(p.curve([*body, (72, 206), (120, 230)], -0.6), cloth)


def draw_ears(p: Portrait) -> None:
    """Both ears; the head is drawn over their inner half."""
    for side in (-1, 1):
        p.oval(side * p.half, 119, 5.5, 12, mix(p.palette.skin, p.palette.shadow, 0.45), z=-0.9)
        p.oval(side * (p.half + 1), 119, 3, 8, mix(p.palette.skin, p.palette.shadow, 0.8), z=-0.9)


def draw_head(p: Portrait) -> None:
    """The head, modelled by soft light on its planes."""
    f, skin, w, chin = p.f, p.palette, p.half, p.chin
    jaw = w * (0.73 + 0.06 * f.jaw + 0.06 * f.male)
    tip = w * (0.31 + 0.06 * f.jaw + 0.08 * f.male)
    right = [(0.58 * w, 50), (0.92 * w, 70), (w, 100), (0.96 * w, 130), (jaw, 154), (tip, chin - 5)]
    outline = [(0, 44), *right, (0, chin), *[(-x, y) for x, y in right[::-1]]]
    curve = p.curve(outline, -0.5, closed=True)
    p.face = Image.new("L", p.image.size)
    ImageDraw.Draw(p.face).polygon(curve, 255)
    soft = Image.new("RGB", (IMAGE_SIZE[0] // 2, IMAGE_SIZE[1] // 2), skin.shadow)
    x = 13 * f.light * (0.4 + 0.6 * f.contrast)
    p.glow(x, 112, 74, 100, skin.skin, 1.0, -0.3, on=soft)
    p.glow(x * 0.7, 118, 46, 84, skin.skin, 1.0, -0.2, on=soft)
    p.glow(x * 0.8, 80, 34, 24, skin.glint, 0.55, 0.1, on=soft)
    for side in (-1, 1):
        lit = 0.5 + 0.35 * side * f.light
        red = (min(255, round(skin.skin[0] * 1.08)), round(skin.skin[1] * 0.55), round(skin.skin[2] * 0.6))
        rosy = mix(skin.skin, red, 0.25 + 0.5 * f.blush)
        p.glow(side * 0.6 * w, 138, 18, 15, rosy, 0.45 + 0.35 * f.blush, 0.2, on=soft)
        p.glow(side * 0.56 * w, 129, 14, 10, skin.glint, 0.7 * lit, 0.3, on=soft)
    p.glow(0, chin - 9, 13, 9, skin.glint, 0.4, 0.3, on=soft)
    box = p.face.getbbox() or (0, 0, *p.face.size)
    shaded = soft.resize(
        (box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR, (box[0] / 4, box[1] / 4, box[2] / 4, box[3] / 4)
    )
    p.image.paste(shaded, box, p.face.crop(box))


def draw_folds(p: Portrait) -> None:
    """What age and a smile leave on a face: folds beside the mouth, lines on the forehead, bags under the eyes."""
    f, skin = p.f, p.palette
    old = max(0.0, f.age - 0.5) / 0.5
    fold = 0.25 * old + 0.15 * max(f.smile, 0)
    for side in (-1, 1):
        line = [(side * 10, 134), (side * (18 + 2 * f.smile), 145), (side * (21 + 3 * f.smile), 156)]
        p.line(p.curve(line, 0.4), skin.shadow, 1.5, fold)
        p.glow(side * eye_x(f), 122, 11, 5, skin.shadow, 0.5 * old)
        crow = side * (eye_x(f) + 13)
        p.line([p.at(crow, 110), p.at(crow + side * 5, 107)], skin.shadow, 1, 0.5 * old)
        p.line([p.at(crow, 113), p.at(crow + side * 5, 115)], skin.shadow, 1, 0.5 * old)
    for y in (74, 81, 88):
        p.line(p.curve([(-20, y), (0, y - 2), (20, y)], 0.1), skin.shadow, 1.2, 0.3 * old)


def eye_x(f: Factors) -> float:
    """How far the middle of an eye is from the midline."""
    return 20.8 + 1.6 * f.eye_spacing


def draw_eyes(p: Portrait) -> None:
    """Sockets, eyes, lids, lashes and eye shadow."""
    f, skin = p.f, p.palette
    iris = ramp(IRISES, f.eye_colour)
    rx = 10.6 + 1.3 * f.eye_size
    up = (4.9 + 0.8 * f.eye_size) * (0.5 + 0.6 * f.eyelids)
    down = 3.3 + 0.4 * f.eye_size - 1.1 * max(f.smile, 0)
    for side in (-1, 1):
        x = side * eye_x(f)
        p.glow(x, 107, 16, 12, mix(skin.shadow, skin.skin, 0.25), 0.6)
        p.glow(x, 105, 15, 8, mix(skin.shadow, ramp(HUES, 0.55 + 0.4 * f.lipstick_hue), 0.35), 0.9 * f.makeup)
        upper = [
            (x - rx, 112.0),
            (x - 0.55 * rx, 111 - 0.8 * up),
            (x, 111 - up),
            (x + 0.55 * rx, 111 - 0.8 * up),
            (x + rx, 112),
        ]
        lower = [(x + 0.5 * rx, 111 + 0.8 * down), (x, 111 + down), (x - 0.5 * rx, 111 + 0.8 * down)]
        lids = p.curve(upper)
        rim = [*lids, *p.curve([upper[-1], *lower, upper[0]])]
        draw_eyeball(p, x, rim, iris)
        crease = p.curve([(a, b - 2.6) for a, b in upper[:-1]] if side < 0 else [(a, b - 2.6) for a, b in upper[1:]])
        p.line(crease, skin.shadow, 1, 0.7)
        p.line(p.curve([upper[-1], *lower, upper[0]]), mix(skin.shadow, BLACK, 0.3), 1, 0.45 + 0.4 * f.makeup)
        lash = mix(p.palette.hair, BLACK, 0.75)
        p.line(lids, lash, 1.5 + 1.2 * f.makeup, 0.95)
        p.line(
            [p.at(x + side * (rx - 2), 110.5), p.at(x + side * (rx + 1 + 2.5 * f.makeup), 110 - 1.5 * f.makeup)],
            lash,
            1.5,
            0.9,
        )


def draw_eyeball(p: Portrait, x: float, rim: Sequence[Point], iris: Colour) -> None:
    """What shows between the lids."""
    gaze = x + 2.6 * p.f.gaze
    left, top = (min(round(c[i]) for c in rim) for i in (0, 1))
    right, bottom = (max(round(c[i]) for c in rim) + 1 for i in (0, 1))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([v for a, b in rim for v in (round(a) - left, round(b) - top)], 255)
    before = p.image.crop((left, top, right, bottom))
    p.image.paste((232, 226, 222), (left, top, right, bottom))
    p.oval(gaze, 110.8, 5.4, 5.4, mix(iris, BLACK, 0.5))
    p.oval(gaze, 111, 4.4, 4.4, iris)
    p.oval(gaze, 110.8, 2, 2, (14, 10, 10))
    p.oval(gaze + 1.5 + p.f.light, 109, 1.1, 1.1, (250, 250, 250))
    p.glaze.line([left, top + 2, right, top + 2], (*BLACK, 70), 5)
    p.image.paste(before, (left, top), ImageChops.invert(mask))


def draw_brows(p: Portrait) -> None:
    """The eyebrows."""
    f = p.f
    colour = mix(mix(p.palette.hair, (70, 50, 40), 0.4), BLACK, 0.25)
    thick = 2.6 + 1.1 * f.brow_thickness + 0.7 * f.male
    y = 99.5 + 1.5 * f.male - 1.5 * f.eyelids
    arch = 2.6 + 2 * f.brow_arch - 0.8 * f.male
    for side in (-1, 1):
        middle = eye_x(f) + 1
        top = [
            (side * (middle - 12.5), y - thick * 0.7),
            (side * (middle + 4), y - arch - thick * 0.5),
            (side * (middle + 14), y + 1),
        ]
        low = [(a, b + thick * share) for (a, b), share in zip(top[::-1], (0.25, 0.9, 1.1), strict=True)]
        p.fill([*p.curve(top, 0.2), *p.curve(low, 0.2)], colour, 0.75)


def draw_nose(p: Portrait) -> None:
    """The nose, by its lights and shadows."""
    f, skin = p.f, p.palette
    wide = 8.2 + 1.6 * f.nose_size + 0.6 * f.male
    dark = -1 if f.light > 0 else 1
    p.glow(dark * 6, 122, 5, 17, skin.shadow, 0.3 + 0.35 * f.contrast * abs(f.light), 0.5)
    for side in (-1, 1):
        p.glow(side * 8.5, 105, 5, 10, skin.shadow, 0.4, 0.2)
        p.glow(side * (wide + 1), 135, 5, 7, skin.shadow, 0.5, 0.7)
    p.glow(0, 140.5, wide + 4, 5, skin.shadow, 0.75, 0.7)
    p.glow(0, 117, 3.6, 19, skin.glint, 0.6, 0.7)
    p.glow(0, 133.5, wide * 0.75, 6.5, skin.glint, 0.65, 1.0)
    for side in (-1, 1):
        p.oval(side * wide * 0.5, 138.6, 2.4, 1.3, mix(skin.shadow, BLACK, 0.55), 0.8, 0.9)


def draw_mouth(p: Portrait) -> None:
    """Lips, and the teeth between them."""
    f, skin = p.f, p.palette
    half = 16 + 1.8 * f.mouth_width + 3 * max(f.smile, 0)
    corner = 154.4 - 5 * f.smile
    gap = 7.5 * max(f.mouth_open, 0)
    full = 3.6 + 1.4 * f.lips - 0.5 * f.male
    seam = 155 - 0.45 * gap + 0.6 * f.smile
    z = 0.6
    p.glow(0, 168 + 0.5 * gap, 14, 5, skin.shadow, 0.5, 0.4)
    p.glow(0, 155, half + 9, 12, skin.shadow, 0.25, 0.4)
    ends = ((-half, corner), (half, corner))
    top = [
        ends[0],
        (-half * 0.45, seam - full),
        (-3, seam - full - 0.8),
        (0, seam - full),
        (3, seam - full - 0.8),
        (half * 0.45, seam - full),
        ends[1],
    ]
    upper = [ends[0], (-half * 0.5, seam + 0.3), (0, seam + 0.6), (half * 0.5, seam + 0.3), ends[1]]
    lower = [(a, b + gap * (1 - (a / half) ** 2)) for a, b in upper]
    bottom = [
        ends[1],
        (half * 0.5, seam + gap + full * 1.2),
        (0, seam + gap + full * 1.75),
        (-half * 0.5, seam + gap + full * 1.2),
        ends[0],
    ]
    inside = [*p.curve(upper, z), *p.curve(lower[::-1], z)]
    if gap > 0:
        p.fill(inside, (70, 24, 28))
        teeth = [(0.9 * a, b + min(gap * 0.65, 5.0) * (1 - (a / half) ** 2)) for a, b in upper[::-1]]
        p.fill([*p.curve(upper, z), *p.curve(teeth, z)], (228, 220, 210))
    p.fill([*p.curve(top, z), *p.curve(upper[::-1], z)], mix(skin.lips, skin.shadow, 0.25))
    p.fill([*p.curve(lower, z), *p.curve(bottom, z)], skin.lips)
    p.glow(0, seam + gap + full * 0.95, half * 0.5, full * 0.75, WHITE, 0.25 + 0.15 * f.lipstick, z)
    p.line(p.curve(upper, z), mix(skin.shadow, (60, 16, 20), 0.6), 1, 0.8)


def draw_beard(p: Portrait) -> None:
    """Beard and moustache: hair over the skin, with soft edges."""
    f, w, chin = p.f, p.half, p.chin
    if not (f.beard or f.moustache):
        return
    small = Image.new("L", (IMAGE_SIZE[0] // 2, IMAGE_SIZE[1] // 2))
    pen = ImageDraw.Draw(small)

    def patch(points: Sequence[Point], density: float) -> None:
        curve = p.curve([*points, *[(-x, y) for x, y in points[::-1]]], closed=True, steps=4)
        pen.polygon([round(c / 4) for point in curve for c in point], round(255 * density))

    mouth = 15 + 3 * max(f.smile, 0)
    density = 0.12 + 0.8 * f.beard
    if f.beard and f.beard_width < 0.35:
        patch([(0, 166), (10, 168), (16, 160), (20, 172), (14, chin + 4), (0, chin + 6)], density)
    elif f.beard:
        jaw = [
            (0, 166),
            (mouth, 165),
            (mouth + 6, 156),
            (w * 0.72, 148),
            (w - 5, 122),
            (w + 4, 122),
            (w + 2, 150),
            (24, chin + 6),
            (0, chin + 8),
        ]
        patch(jaw, density)
    if f.moustache:
        patch([(0, 143), (9, 144), (mouth + 5, 155), (mouth + 2, 157), (8, 149), (0, 148)], 0.15 + 0.8 * f.moustache)
    mask = small.filter(ImageFilter.BoxBlur(1)).resize(p.image.size, Image.Resampling.BILINEAR)
    if p.face is not None:
        mask = ImageChops.multiply(mask, p.face)
    p.image.paste(mix(mix(p.palette.hair, (60, 44, 36), 0.35), BLACK, 0.2), (0, 0), mask)


def draw_hair_front(p: Portrait) -> None:
    """The hair around the face: two ribbons from the parting down, and the bangs."""
    f, skin = p.f, p.palette
    if f.bald:
        p.glow(14 * f.light, 58, 22, 14, skin.glint, 0.5, -0.3, p.face)
        return
    line = 64 - 6 * f.hairline
    p.glow(0, line + 4, p.half * 0.95, 10, skin.shadow, 0.6, -0.1, p.face)
    for side in (-1, 1):
        outer, inner = hair_sides(p, side)
        p.ribbon(outer, inner, hair_bands(p, side), -0.5, 2.4 * f.curl)
    if f.bangs:
        w = p.half
        p.glow(0, 96, w * 0.9, 8, skin.shadow, 0.5, 0.0, p.face)
        drop = 93 + 2 * f.parting
        left = [(-0.6 * w, 54), (-0.84 * w, 70), (-0.93 * w, drop + 4)]
        right = [(0.6 * w, 54), (0.84 * w, 70), (0.93 * w, drop + 4)]
        p.ribbon(left, right, [*hair_bands(p, -1)[3:], *hair_bands(p, 1)[:2:-1]], -0.2, 1.2 * f.curl)
    p.glow(12 * f.light, 48 - 5 * f.hair_volume, 30, 9, mix(skin.hair, WHITE, 0.5), 0.2 + 0.2 * f.contrast, -0.5)


def draw_earrings(p: Portrait) -> None:
    """Studs, or drops below them."""
    for side in (-1, 1):
        x = side * (p.half + 1)
        if p.f.earrings > 1:
            p.oval(x, 143, 2.4, 7, (196, 160, 84), z=-0.8)
            p.oval(x, 147, 2.8, 3.2, (240, 222, 170), z=-0.8)
        if p.f.earrings:
            p.oval(x, 132, 2.3, 2.3, (236, 232, 226), z=-0.8)


def draw_glasses(p: Portrait) -> None:
    """Clear glasses or sunglasses."""
    if not p.f.glasses:
        return
    dark = p.f.glasses > 1
    frame = (34, 28, 28)
    p.line([p.at(-6, 108, 0.3), p.at(6, 108, 0.3)], frame, 2)
    for side in (-1, 1):
        x = side * 20.5
        p.line([p.at(x + side * 14, 107, 0.3), p.at(side * (p.half + 1), 107, -0.7)], frame, 2)
        lens = [(x - 14, 104), (x, 101.5), (x + 14, 104), (x + 13, 118), (x, 122.5), (x - 13, 118)]
        rim = p.curve(lens, 0.3, closed=True)
        p.fill(rim, (26, 24, 28) if dark else (225, 235, 240), 0.93 if dark else 0.12)
        p.line([*rim, rim[0]], frame, 1.8)
        p.glow(x - 4, 107, 9, 5, WHITE, 0.25, 0.3)


def draw_hat(p: Portrait) -> None:
    """A knitted hat or one with a brim."""
    f, w = p.f, p.half + 5
    if not f.hat:
        return
    cloth = mix(mix(ramp(HUES, f.hat_hue), (90, 88, 90), 0.35), BLACK, 0.35)
    bands = [mix(cloth, WHITE if k % 2 else BLACK, 0.1 + 0.05 * (k % 3)) for k in range(14)]
    p.glow(0, 88, p.half, 10, p.palette.shadow, 0.8, -0.1, p.face)
    left = [(-4.0, 22.0), (-0.72 * w, 36), (-w, 62), (-w - 1, 84)]
    p.ribbon(left, [(-x, y) for x, y in left], bands, -0.6)
    if f.hat > 1:
        brim = [(-w - 2, 80), (0, 70), (w + 2, 80), (w + 16, 90), (0, 82), (-w - 16, 90)]
        p.fill(p.curve(brim, -0.3, closed=True), mix(cloth, BLACK, 0.35))
    else:
        cuff = [(-w - 2, 68), (0, 62), (w + 2, 68), (w + 2, 86), (0, 79), (-w - 2, 86)]
        p.fill(p.curve(cuff, -0.5, closed=True), mix(cloth, BLACK, 0.25))
    p.glow(16 * f.light, 46, 26, 18, mix(cloth, WHITE, 0.6), 0.4, -0.5)


def develop(p: Portrait) -> Image.Image:
    """The finished picture: averaged down, under the light's exposure and warmth, blurred."""
    f = p.f
    image = p.image.reduce(SCALE)
    table: list[int] = []
    for warm in (1.0, 0.0, -1.0):
        gain = 0.97 + 0.13 * f.exposure + 0.07 * f.warmth * warm
        table += [min(255, int(v * gain + 0.5)) for v in range(256)]
    image = image.point(table)
    return image.filter(ImageFilter.BoxBlur(1 + 1.5 * f.blur)) if f.blur else image


PAINTERS = (
    draw_background,
    draw_hair_back,
    draw_body,
    draw_ears,
    draw_head,
    draw_folds,
    draw_beard,
    draw_eyes,
    draw_brows,
    draw_nose,
    draw_mouth,
    draw_hair_front,
    draw_earrings,
    draw_glasses,
    draw_hat,
)
"""From back to front."""


def draw_face(f: Factors) -> Image.Image:
    """Draw a face: an RGB picture of 178x218 pixels, laid out as CelebA's aligned ones."""
    portrait = Portrait(f)
    for paint in PAINTERS:
        paint(portrait)
    return develop(portrait)
