"""Turns what is wrong in params.yaml into one line each: where it is, what it is, and what was meant."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from visage.errors import UserError

Kind = TypeVar("Kind")
Item = TypeVar("Item")
Found = TypeVar("Found")
STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


def check(kind: type[Kind], raw: Any, where: str, places: Mapping[str, str] | None = None) -> Kind:
    """Build a pydantic model or a plain dataclass from a mapping of YAML values.

    where: file and section that the values come from.
    places: key -> the section that it comes from, where that is not `where`.

    Raises:
        UserError: a key is unknown or missing, a value is of the wrong type or out of range, or values do not go
            together.
    """
    try:
        if issubclass(kind, BaseModel):
            return kind.model_validate(raw)
    except ValidationError as error:
        raise UserError(_line(error, kind, where, places or {})) from error
    try:
        return kind(**check_values(kind, raw, where, places))
    except ValueError as error:  # from the dataclass's __post_init__
        raise UserError(f"{where}: {error}") from error


def check_values(kind: type, raw: Any, where: str, places: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The values of a dataclass's fields, each checked on its own: whether they go together is left to `check`.

    where, places: as in `check`.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type or out of range.
    """
    try:
        return dict(_as_model(kind).model_validate(_tuples(raw, get_type_hints(kind, include_extras=True))))
    except ValidationError as error:
        raise UserError(_line(error, kind, where, places or {})) from error


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """What `work` gives for each item.

    Raises:
        UserError: `work` refuses some of them: a line for each, but none twice.
    """
    found, lines = [], []
    for item in items:
        try:
            found.append(work(item))
        except UserError as error:
            lines.append(str(error))
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
    return found


def field_names(kind: type) -> list[str]:
    """The names of the fields of a pydantic model or of a dataclass, in order."""
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]


def hint(word: str, known: Iterable[str]) -> str:
    """A question that ends a message, with the known word that is nearest; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


@cache
def _as_model(kind: type) -> type[BaseModel]:
    """A pydantic model with the fields of a dataclass; making one takes longer than using it."""
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {name: (hints[name], ...) for name in field_names(kind)}
    return create_model(kind.__name__, __config__=STRICT, **fields)


def _tuples(raw: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """YAML has lists only; give fields that are tuples what they want."""
    return {
        key: tuple(value) if isinstance(value, list) and _is_tuple(hints.get(key)) else value
        for key, value in raw.items()
    }


def _is_tuple(annotation: Any) -> bool:
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_origin(plain) is tuple


def _line(error: ValidationError, kind: type, where: str, places: Mapping[str, str]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    place = ": ".join(filter(None, [places.get(path[0], where) if path else where, ".".join(path)]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key{hint(path[-1], _known_keys(kind, path[:-1]))}{more}"
    if first["type"] == "missing":
        return f"{place}: this key is missing{more}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{place}: {message}{given}{more}"


def _known_keys(kind: type, path: Iterable[str]) -> list[str]:
    """The keys that the section at `path` has, where sections are pydantic models."""
    for part in path:
        fields = kind.model_fields if issubclass(kind, BaseModel) else {}
        inner = fields[part].annotation if part in fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return field_names(kind)
