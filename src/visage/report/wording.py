"""How numbers are written on the page: few digits, the unit, and what kind of number it is."""

import math
from collections.abc import Callable
from functools import partial

from visage.measures.table import Format

MARKS = {"upper_bound": "≤ ", "lower_bound": "≥ ", "estimate": "≈ "}
KINDS = {
    "exact": "exact",
    "upper_bound": "upper bound",
    "lower_bound": "lower bound",
    "estimate": "estimate",
    "counted": "counted",
    "measured": "measured: differs a little from run to run",
    "undefined": "not defined",
}
"""Kinds of numbers and what the page calls them, in the order in which a table groups them."""


def significant(value: float, digits: int = 4) -> str:
    """Write a number to a number of significant digits, without exponent where it stays short."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace(",", "\u202f").replace("-", "−")


def decimals(value: float, places: int) -> str:
    """Write a number with a number of decimals; thousands apart."""
    return f"{value:,.{places}f}".replace(",", "\u202f").replace("-", "−")


def share(value: float) -> str:
    """Write a number in [0, 1] as papers print an AUROC: .193, 1.000."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def thousands(value: float) -> str:
    """Write thousands of images: 64, 1.5, 7\u202f680."""
    return decimals(value, 1).removesuffix(".0")


def count(value: float) -> str:
    """Write a number of things: 950, 12.3 k, 4.1 M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}\u202f{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Write a time: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.3g}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u202fh {minutes}\u202fmin" if hours else f"{minutes}\u202fmin {rest}\u202fs"


WRITE: dict[Format, Callable[[float], str]] = {
    "places1": partial(decimals, places=1),
    "places2": partial(decimals, places=2),
    "places3": partial(decimals, places=3),
    "places4": partial(decimals, places=4),
    "significant": significant,
    "significant3": partial(significant, digits=3),
    "share": share,
    "count": count,
    "thousands": thousands,
    "duration": duration,
}
"""How each format of the table of measures is written."""


def plain(name: str) -> str:
    """A name of files and settings as people write it: Wearing_Hat is Wearing Hat."""
    return name.replace("_", " ")


def grouped(number: int) -> str:
    """A whole number with its thousands apart: 4\u202f800."""
    return f"{number:,}".replace(",", "\u202f")
