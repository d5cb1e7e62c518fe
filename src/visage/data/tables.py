"""Tables of annotations as people have them: from CelebA's authors, Kaggle, pandas, Excel or a text editor.

Words between blanks, or values between commas, semicolons or tabs, with quotes or without, in UTF-8 or UTF-16.
"""

import codecs
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from visage.data.collection import IMAGES
from visage.errors import UserError

BIT = {"1": 1, "0": 0, "-1": 0, "1.0": 1, "0.0": 0, "-1.0": 0}
"""What says that an attribute is there, or is not; pandas writes numbers with a point where a column had gaps."""
DELIMITERS = (",", ";", "\t")
Row = tuple[int, list[str]]
"""The number of a line, and its values without the blanks around them."""


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        UserError: it cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give yourself the permission") from error
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}): save it as such, or copy it again") from error


def rows(path: Path) -> Iterator[Row]:
    """The lines of a table that are not blank.

    Raises:
        UserError: the file is no text, or its quotes do not end.
    """
    text = read_text(path)
    delimiter = _delimiter(text)
    if delimiter is None:
        yield from ((i, line.split()) for i, line in enumerate(text.splitlines(), start=1) if line.strip())
        return
    lines = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for values in lines:
            if any(value.strip() for value in values):
                yield lines.line_num, [value.strip() for value in values]
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: {error}: correct it") from error


def _delimiter(text: str) -> str | None:
    """What stands between the values: the delimiter that the first lines have most of, None where it is blanks."""
    first = [line for line in text[:4096].splitlines() if line.strip()][:3]
    counts = {delimiter: sum(line.count(delimiter) for line in first) for delimiter in DELIMITERS}
    found = max(counts, key=lambda delimiter: counts[delimiter])
    return found if counts[found] else None


def name_column(values: list[str]) -> int | None:
    """The index of the first value that is the name of an image, None in a header."""
    return next((i for i, value in enumerate(values) if value.lower().endswith(IMAGES)), None)


def once(found: Mapping[str, object], name: str, path: Path, number: int) -> None:
    """Refuse an image that has a row already.

    Raises:
        UserError: it has.
    """
    if name in found:
        raise UserError(f"{path}, line {number}: {name} has a row already: remove one of the two")
