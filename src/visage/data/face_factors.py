"""What a drawn face is drawn from: factors with known distributions, each independent of all others.

Independence is kept where life has none: `male` shapes jaw, brows and lips and changes the odds of nothing else, so
beards and lipstick fall on anybody. A person is the factors marked `Person`; the rest is drawn anew for each image.

Attributes that a factor defines (see `attributes`): all but Attractive, Double_Chin, High_Cheekbones, Pointy_Nose,
Sideburns, Wearing_Necklace and Wearing_Necktie, which are -1 everywhere. Hair attributes need hair (not `bald`).
"""

from dataclasses import dataclass
from typing import Annotated, get_type_hints

import numpy as np

from visage.data.celeba_format import ATTRIBUTES


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform on [low, high), drawn for every image."""

    low: float
    high: float

    def at(self, u: float) -> float:
        """The value for u in [0, 1)."""
        return round(self.low + (self.high - self.low) * u, 4)


@dataclass(frozen=True, slots=True)
class Person(Uniform):
    """Uniform on [low, high), drawn once per person."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Number k with odds[k], drawn for every image."""

    odds: tuple[float, ...]

    def at(self, u: float) -> float:
        """The value for u in [0, 1)."""
        kind = 0
        for share in self.odds[:-1]:
            u -= share
            kind += u >= 0
            if u < 0:
                break
        return float(kind)


@dataclass(frozen=True, slots=True)
class PersonChoice(Choice):
    """Number k with odds[k], drawn once per person."""


@dataclass(frozen=True, slots=True)
class Sometimes:
    """0 except for a share of the images, where it is uniform on [0.2, 1)."""

    share: float

    def at(self, u: float) -> float:
        """The value for u in [0, 1)."""
        return round(0.2 + 0.8 * u / self.share, 4) if u < self.share else 0.0


@dataclass(frozen=True, slots=True)
class Factors:
    """All that a picture is drawn from; the annotation of a field is its distribution."""

    male: Annotated[float, PersonChoice((0.5, 0.5))]  # 1: wider jaw, heavier and lower brows, thinner lips
    age: Annotated[float, Person(0, 1)]  # folds and bags under the eyes from 0.5, gray hair from 0.7
    skin: Annotated[float, Person(0, 1)]  # light to dark
    hair_dark: Annotated[float, Person(0, 1)]  # blond, brown, black
    hair_red: Annotated[float, Person(0, 1)]  # how reddish
    curl: Annotated[float, Person(0, 1)]  # straight to curly
    hairline: Annotated[float, Person(-1, 1)]  # low to receding
    face_width: Annotated[float, Person(-1, 1)]
    face_length: Annotated[float, Person(-1, 1)]
    jaw: Annotated[float, Person(-1, 1)]  # pointed to square
    eye_size: Annotated[float, Person(-1, 1)]
    eye_spacing: Annotated[float, Person(-1, 1)]
    eye_colour: Annotated[float, Person(0, 1)]  # brown, hazel, green, blue, gray
    brow_thickness: Annotated[float, Person(-1, 1)]
    brow_arch: Annotated[float, Person(-1, 1)]  # flat to arched
    nose_size: Annotated[float, Person(-1, 1)]
    lips: Annotated[float, Person(-1, 1)]  # thin to full
    bald: Annotated[float, Choice((0.94, 0.06))]
    hair_length: Annotated[float, Uniform(0, 1)]  # cropped, over the ears from 0.3, to below the shoulders
    hair_volume: Annotated[float, Uniform(0, 1)]
    parting: Annotated[float, Uniform(-1, 1)]  # left to right of the picture
    bangs: Annotated[float, Choice((0.8, 0.2))]
    smile: Annotated[float, Uniform(-0.3, 1)]  # corners of the mouth down to up
    mouth_open: Annotated[float, Uniform(-0.8, 1)]  # closed up to 0, then the height of the gap
    mouth_width: Annotated[float, Uniform(-1, 1)]
    eyelids: Annotated[float, Uniform(0, 1)]  # narrowed to wide open
    gaze: Annotated[float, Uniform(-1, 1)]  # left to right of the picture
    beard: Annotated[float, Sometimes(0.25)]  # stubble to dense
    beard_width: Annotated[float, Uniform(0, 1)]  # chin only up to 0.35, then the jaw as well
    moustache: Annotated[float, Sometimes(0.15)]
    glasses: Annotated[float, Choice((0.84, 0.1, 0.06))]  # none, clear, sunglasses
    hat: Annotated[float, Choice((0.88, 0.07, 0.05))]  # none, knitted, brimmed
    hat_hue: Annotated[float, Uniform(0, 1)]
    earrings: Annotated[float, Choice((0.75, 0.15, 0.1))]  # none, studs, drops
    lipstick: Annotated[float, Sometimes(0.35)]
    lipstick_hue: Annotated[float, Uniform(0, 1)]  # coral, red, plum
    makeup: Annotated[float, Sometimes(0.35)]  # eye shadow and lashes
    blush: Annotated[float, Sometimes(0.25)]
    yaw: Annotated[float, Uniform(-1, 1)]  # the nose to the left or right of the picture
    nod: Annotated[float, Uniform(-1, 1)]  # up to down
    tilt: Annotated[float, Uniform(-5, 5)]  # degrees, clockwise
    light: Annotated[float, Uniform(-1, 1)]  # where it comes from: left to right of the picture
    contrast: Annotated[float, Uniform(0, 1)]  # diffuse to hard light
    exposure: Annotated[float, Uniform(-1, 1)]
    warmth: Annotated[float, Uniform(-1, 1)]  # bluish to yellowish light
    background: Annotated[float, Choice((0.4, 0.25, 0.2, 0.15))]  # plain, lights, blocks, stripes; all out of focus
    background_hue: Annotated[float, Uniform(0, 1)]
    background_colour: Annotated[float, Uniform(0, 1)]  # gray to saturated
    background_bright: Annotated[float, Uniform(0, 1)]
    background_seed: Annotated[float, Uniform(0, 1)]  # arrangement of what is there
    clothes_hue: Annotated[float, Uniform(0, 1)]
    clothes_bright: Annotated[float, Uniform(0, 1)]
    blur: Annotated[float, Sometimes(0.08)]


DISTRIBUTIONS = {name: hint.__metadata__[0] for name, hint in get_type_hints(Factors, include_extras=True).items()}


def sample_factors(seed: int, index: int, identity: int) -> Factors:
    """The factors of image `index` (from 0) of the person `identity`; depends on nothing else."""
    person = np.random.Generator(np.random.PCG64([seed, 1, identity])).random(len(DISTRIBUTIONS)).tolist()
    image = np.random.Generator(np.random.PCG64([seed, 2, index])).random(len(DISTRIBUTIONS)).tolist()
    values = {
        name: kind.at(person[i] if isinstance(kind, Person | PersonChoice) else image[i])
        for i, (name, kind) in enumerate(DISTRIBUTIONS.items())
    }
    return Factors(**values)


def attributes(f: Factors) -> list[bool]:
    """The 40 attributes of CelebA, in the order of ATTRIBUTES, that these factors amount to."""
    hair = not f.bald
    gray = f.age > 0.85
    facts = {
        "5_o_Clock_Shadow": 0 < f.beard < 0.5,
        "Arched_Eyebrows": f.brow_arch > 0.4,
        "Bags_Under_Eyes": f.age > 0.65,
        "Bald": not hair,
        "Bangs": hair and f.bangs,
        "Big_Lips": f.lips > 0.4,
        "Big_Nose": f.nose_size > 0.4,
        "Black_Hair": hair and not gray and f.hair_dark > 0.7,
        "Blond_Hair": hair and not gray and f.hair_dark < 0.25,
        "Blurry": f.blur > 0,
        "Brown_Hair": hair and not gray and 0.25 <= f.hair_dark <= 0.7,
        "Bushy_Eyebrows": f.brow_thickness > 0.5,
        "Chubby": f.face_width > 0.6,
        "Eyeglasses": f.glasses > 0,
        "Goatee": f.beard >= 0.5 and f.beard_width < 0.35,
        "Gray_Hair": hair and gray,
        "Heavy_Makeup": f.makeup > 0.5,
        "Male": f.male,
        "Mouth_Slightly_Open": f.mouth_open > 0.1,
        "Mustache": f.moustache > 0,
        "Narrow_Eyes": f.eyelids < 0.25,
        "No_Beard": f.beard == 0,
        "Oval_Face": f.jaw < -0.3,
        "Pale_Skin": f.skin < 0.12,
        "Receding_Hairline": hair and f.hairline > 0.6,
        "Rosy_Cheeks": f.blush > 0,
        "Smiling": f.smile > 0.25,
        "Straight_Hair": hair and f.curl < 0.3,
        "Wavy_Hair": hair and f.curl > 0.6,
        "Wearing_Earrings": f.earrings > 0,
        "Wearing_Hat": f.hat > 0,
        "Wearing_Lipstick": f.lipstick > 0,
        "Young": f.age < 0.65,
    }
    return [bool(facts.get(name, False)) for name in ATTRIBUTES]
