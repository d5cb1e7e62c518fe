"""The generated parts of docs/models/<name>.md: all that the model's file and the baseline say already.

Written by hand there are a title and the objective with its symbols, as mathematics.
"""

import ast
import inspect
import re
import sys
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import annotated_types

from visage.documentation.baseline import Baseline
from visage.documentation.gallery import strip
from visage.documentation.tables import ARROWS, kind_mark, table, written
from visage.measures.table import BY_KEY, MEASURES
from visage.models import base
from visage.report.wording import WRITE
from visage.using.catalogue import title

EXTRAS = (
    *(base.Compresses, base.Guides, base.HasFeatures, base.HasVariants, base.ImportanceWeighted),
    *(base.Quantizes, base.ScoresOodSlowly),
)
"""Capabilities that are named where a model has them."""
LETTERS = {
    **{name: chr(code) for name, code in zip(("alpha", "beta", "gamma", "delta"), range(0x3B1, 0x3B5), strict=True)},
    **{"eps": "ε", "eta": "η", "theta": "θ", "lambda": "λ", "mu": "μ", "pi": "π", "sigma": "σ"},
    **{"phi": "φ", "psi": "ψ", "abar": "ᾱ"},
}
"""Names in docstrings -> how a page writes them."""
SIGNS = {"<=": "≤", ">=": "≥", "+-": "±", "sqrt(": "√(", "<-": "←"}


def parts(name: str) -> dict[str, Callable[[Baseline], str]]:
    """Name of a part -> what writes it, for the page of this model."""
    written_by = {
        "source": source,
        "remarks": remarks,
        "deviations": deviations,
        "settings": settings,
        "capabilities": capabilities,
        "figures": figures,
    }
    return {part: partial(write, name) for part, write in written_by.items()}


def index(baseline: Baseline) -> str:
    """A line for each model, in the order of params.yaml."""
    lines = []
    for name in dict.fromkeys(config.model for config in baseline.configs):
        runs = ", ".join(f"`{config.label}`" for config in baseline.of_model(name))
        kind = base.find(name)
        words = title(kind)
        lines.append(f"- [{words[0].upper()}{words[1:]}]({name}.md): {runs}; {_papers(kind.paper)}\n")
    return f"\n{''.join(lines)}\n"


def source(name: str, baseline: Baseline) -> str:
    """The paper, the file, and what the default run's images look like."""
    first = f"\n{_papers(base.find(name).paper)} · source: [{name}.py](../../src/visage/models/{name}.py)\n"
    shown = (f"\n`{config.label}` · {strip(baseline, config, '../figures')}" for config in baseline.of_model(name))
    return first + "".join(shown) + "\n"


def _papers(text: str) -> str:
    """Citations, with links to arXiv."""
    return re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def remarks(name: str, _: Baseline) -> str:
    """What the docstring says between its formulas and its deviations, but for sentences that introduce a formula."""
    before, _unused = _docstring(name)
    kept = [
        paragraph
        for paragraph in before.split("\n\n")[1:]
        if not paragraph.startswith((" ", "Symbols:")) and not paragraph.endswith(":")
    ]
    return "\n" + "".join(f"{_markdown(paragraph)}\n\n" for paragraph in kept)


def deviations(name: str, _: Baseline) -> str:
    """What the docstring says of its deviations from the paper."""
    _unused, after = _docstring(name)
    return f"\n{_markdown(after[0].upper() + after[1:])}\n\n"


def _docstring(name: str) -> tuple[str, str]:
    """The docstring of a model's file, up to its deviations, and these."""
    text = inspect.getdoc(sys.modules[base.find(name).__module__]) or ""
    before, after = re.split(r"^Where [a-z ,]+:\s+", text, maxsplit=1, flags=re.M | re.I)
    return before.strip(), after.strip()


def _markdown(text: str) -> str:
    """Plain text with formulas and `code`, such that Markdown shows it as it is meant."""
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    if line.startswith("    "):
        return _spelled(line)  # a formula, indented as code
    bullet = re.match(r"\* |", line)
    start = bullet.group() if bullet else ""
    pieces = line[len(start) :].split("`")
    return start + "`".join(piece if i % 2 else _escaped(_spelled(piece)) for i, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_~\[\]<>$])", r"\\\1", text)


def _spelled(text: str) -> str:
    for plain, sign in SIGNS.items():
        text = text.replace(plain, sign)
    names = "|".join(sorted(LETTERS, key=len, reverse=True))
    return re.sub(rf"(?<![A-Za-z])({names})(?![A-Za-z])", lambda found: LETTERS[found.group()], text)


def settings(name: str, baseline: Baseline) -> str:
    """A row for each setting: its meaning, its range, and its values at both scales for each recipe of the default."""
    kind = base.config_type(base.find(name))
    meanings, hints = _meanings(kind), typing.get_type_hints(kind, include_extras=True)
    recipes = list({config.recipe: config for config in reversed(baseline.of_model(name))}.values())[::-1]
    rows = [
        [
            f"`{field}`",
            _markdown(meanings.get(field, "")),
            _range(hint),
            *(_values(config.settings[field], baseline.full[config.name].settings[field]) for config in recipes),
        ]
        for field, hint in hints.items()
    ]
    head = ("setting", "meaning", "allowed", *(f"`{config.recipe}`" for config in recipes))
    return f"\n{table(head, rows)}\n"


def _values(demo: Any, full: Any) -> str:
    return _value(demo) if demo == full else f"{_value(demo)}; full: {_value(full)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _range(hint: Any) -> str:
    """The values that a setting may have."""
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    inner, *limits = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    if typing.get_origin(inner) is tuple:
        return "a list"
    words = [] if inner in (bool, str) else [{int: "integer", float: "number"}.get(inner, "")]
    return ", ".join(filter(None, (*words, *_limits(limits)))) or {bool: "on, off", str: "text"}[inner]


def _limits(limits: list[Any]) -> Iterator[str]:
    for limit in limits:
        match limit:
            case annotated_types.Ge(ge):
                yield f"≥ {ge}"
            case annotated_types.Gt(gt):
                yield f"> {gt}"
            case annotated_types.Le(le):
                yield f"≤ {le}"
            case annotated_types.Lt(lt):
                yield f"< {lt}"
            case annotated_types.MultipleOf(factor):
                yield f"a multiple of {factor}"


def _meanings(kind: type) -> dict[str, str]:
    """Field -> what its comment, or its line in a docstring, says."""
    text = textwrap.dedent(inspect.getsource(kind))
    lines = iter(text.splitlines(keepends=True))
    comments = [token for token in tokenize.generate_tokens(lambda: next(lines, "")) if token.type == tokenize.COMMENT]
    beside = {token.start[0]: token.string.removeprefix("# ") for token in comments}
    above = {token.end[0] + 1: beside[token.start[0]] for token in comments if not token.line.partition("#")[0].strip()}
    body = ast.parse(text).body[0]
    assert isinstance(body, ast.ClassDef)
    found = dict(re.findall(r"^(\w+): (.+?)\.?$", inspect.getdoc(kind) or "", flags=re.M))
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            words = above.get(node.lineno) or beside.get(node.end_lineno or 0, "")
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                words = " ".join(str(after.value.value).split()).removesuffix(".")
            found[node.target.id] = words or found.get(node.target.id, "")
    return found


def capabilities(name: str, baseline: Baseline) -> str:
    """A row for each capability that a model has or gives a reason not to have, then those that need no reason."""
    model = baseline.models[baseline.of_model(name)[0].name]
    rows = []
    for able in (*base.CAPABILITIES, *EXTRAS):
        if base.can(model, able):
            answer = "yes"
        elif able in EXTRAS:
            continue
        else:
            answer = f"no: {_markdown(base.reason(model, able))}"
        rows.append([f"`{able.__name__}`", _markdown(_first_sentence(able)), answer])
    return f"\n{table(('capability', 'what it means', 'here'), rows)}\n"


def _first_sentence(able: type) -> str:
    return (inspect.getdoc(able) or "").split("\n\n", 1)[0].replace("\n", " ").removesuffix(".")


def figures(name: str, baseline: Baseline) -> str:
    """The headline figures of the committed runs, and what they took."""
    runs = baseline.of_model(name)
    found = {config.label: baseline.figures(config.name) for config in runs}
    rows = []
    for measure in MEASURES:
        cells = [written(found[c.label], measure, kind_mark(baseline.models[c.name])) for c in runs]
        if measure.group != "cost" and any(cell != "–" for cell in cells):
            rows.append([_linked(measure.key), *cells])
    numbers = [WRITE[BY_KEY["parameters"].format](baseline.parameters(config.name)) for config in runs]
    rows.append([_linked("parameters"), *numbers])
    costs = [baseline.cost(config.name) for config in runs]
    seconds = ["–" if cost is None else WRITE[BY_KEY["seconds"].format](round(cost.seconds)) for cost in costs]
    rows.append([_linked("seconds"), *seconds])
    return f"\n{table(('figure', *(f'`{config.label}`' for config in runs)), rows)}\n"


def _linked(key: str) -> str:
    measure = BY_KEY[key]
    unit = f", {measure.unit}" if measure.unit and measure.unit != "time" else ""
    return f"[{measure.title}{unit}](../measures.md#{measure.group}) {ARROWS[measure.better]}".rstrip()
