"""What the site has and the repository does not: a table of contents, MathML, pages for source files, docstrings."""

import ast
import html
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

SOURCES = "source"
"""The folder of the pages for source files in the site."""
ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)]+)\.md\)", flags=re.M)
"""A line of docs/index.md or docs/models/index.md that is an entry of the table of contents."""

FIELD = re.compile(r"[a-z]\w*: \S")
"""The beginning of a line of a docstring that says what a field is, or an argument."""


MATH = "{http://www.w3.org/1998/Math/MathML}"
ElementTree.register_namespace("", MATH[1:-1])
APPLY, ACCENTS, THIN = "\N{FUNCTION APPLICATION}", "\u02c6\u02c9\u02dc", ".17em"
"""What docutils puts between a function and its argument, its bars, hats and tildes, and LaTeX's thin space."""


# --- Mathematics, at build time and without a script


def mathml(formula: str, display: bool) -> str:
    """LaTeX as MathML: what docutils makes of it, spaced as LaTeX spaces it.

    Raises:
        MathError: docutils does not know a command.
    """
    formula = re.sub(r"\\mathop\{\\mathrm\{(\w+)\}\}", r"\\operatorname{\1}", formula)  # which GitHub does not allow
    text = latex2mathml.tex2mathml(formula, as_block=display)
    tree = ElementTree.fromstring(text.replace("&ApplyFunction;", APPLY))
    for parent in list(tree.iter()):
        for i, child in enumerate(parent):
            if child.tag == f"{MATH}munderover" and child[2].text in ACCENTS:  # x with a hat and an index
                letter, index, accent = child
                parent[i] = _element("msub", _element("mover", letter, accent), index)
            elif child.text == APPLY:
                name, before, after = parent[i - 1], parent[i - 2] if i > 1 else None, parent[i + 1]
                name.tag = f"{MATH}mo"  # upright, and with space: log p, but softplus(x)
                name.set("lspace", "0" if before is None or before.tag == f"{MATH}mo" else THIN)
                name.set("rspace", "0" if after.text in {"(", "["} else THIN)
            elif child.text == "|" and "stretchy" not in child.attrib:
                around = (
                    parent.tag == f"{MATH}mrow" and parent[0].text == parent[-1].text == "|"
                )  # of \\left and \\right
                opens = child.get("class") == "mathopen" or (around and i == 0)
                child.set("form", "prefix" if opens else "postfix")
                child.set("stretchy", "true" if around else "false")
            elif child.text == "max":
                child.set("rspace", "0")
    return ElementTree.tostring(tree, encoding="unicode")


def _element(name: str, *children: ElementTree.Element) -> ElementTree.Element:
    found = ElementTree.Element(f"{MATH}{name}")
    found.extend(children)
    return found


def _written(node: nodes.Node, display: bool) -> str:
    try:
        return mathml(node.astext(), display)
    except MathError as problem:
        raise ExtensionError(
            f"{node.source or 'a table'}:{node.line or ''}: {problem} in {node.astext()!r}"
        ) from problem


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write `$...$` as MathML."""
    self.body.append(_written(node, display=False))
    raise nodes.SkipNode


def displayed_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    self.body.append(f'<div class="math">{_written(node, display=True)}</div>\n')
    raise nodes.SkipNode


# --- What the pages leave to the site: their order, and docstrings


def read_page(app: Sphinx, page: str, text: list[str]) -> None:
    """Turn the lists of an index into tables of contents, and comments that name a module into its docstrings."""
    if page == app.config.root_doc:
        sections = re.findall(r"^## ([^\n]+)\n(.+?)(?=^## |\Z)", text[0], flags=re.M | re.S)
        entries = {words: ENTRY.findall(section) for words, section in sections}
        known = {os.path.normpath(f"docs/{name}") for found in entries.values() for _, name in found}
        more = [name for name in sorted(app.project.docnames) if re.fullmatch(r"docs/[^/]+|benchmarks/.*", name)]
        # pages that no line names: a way to them until one does
        entries["More"] = [("", f"/{name}") for name in more if name not in known | {page}]
        text[0] += "".join(_contents(words, found) for words, found in entries.items() if found)
    elif page == "docs/models/index":
        text[0] += _contents("", ENTRY.findall(text[0]))
    elif page.startswith("benchmarks/"):
        text[0] = f"# benchmarks/{Path(page).name}.md\n\n{text[0]}"  # the programs that write them give them no title
    text[0] = re.sub(
        r"(## [^\n]+\n\n)?<!-- autodoc: ([\w.]+) -->", lambda found: _docstrings(*found.groups("")), text[0]
    )


def _contents(caption: str, entries: list[tuple[str, str]]) -> str:
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    lines = [f"{title} <{name}>" if title else name for title, name in entries]
    return f"\n```{{toctree}}\n{options}\n" + "\n".join(lines) + "\n```\n"


def _docstrings(heading: str, module: str) -> str:
    """The docstrings of a module, after their heading; nothing where there is no such module."""
    try:
        there = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its package
        there = None
    return f"{heading}```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```" if there else ""


def escape_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn plain text with `code` and lines "field: meaning" into what Sphinx reads: literals, and a list of fields."""
    if what in {"attribute", "data", "property"}:  # napoleon takes what stands before a colon for a type
        lines[:] = lines[0].replace(": ", ":\n", 1).split("\n") + lines[1:]
    found, in_field = [], False
    for line in lines:
        in_field = bool(FIELD.match(line)) or (in_field and line.startswith("    "))
        pieces = line.split("`")
        text = "``".join(
            piece if i % 2 else re.sub(r"\||\*(?=\S)", r"\\\g<0>", piece) for i, piece in enumerate(pieces)
        )
        if FIELD.match(line):
            field, words = text.split(":", 1)
            found += ["", f"* ``{field}``:{words}"]
        else:
            found.append(text[2:] if in_field else text)
    lines[:] = found


def bare_class(
    app: Sphinx, what: str, name: str, thing: object, options: object, arguments: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Leave out arguments that say nothing, those of protocols and of abstract modules."""
    return ("", None) if arguments == "(*args, **kwargs)" else None


# --- Links to files and folders of the repository


def link_sources(app: Sphinx, tree: nodes.document) -> None:
    """Let links to text files and folders that are no pages lead to pages that show them."""
    env = app.env
    found = getattr(env, "visage_sources", set())
    for node in [*tree.findall(download_reference), *tree.findall(pending_xref)]:
        if node.get("reftype") == "myst" and node.get("refdomain") is None:
            path = Path(env.relfn2path(node["reftarget"], env.docname)[1])
            if path.is_dir() or (path.is_file() and b"\0" not in path.read_bytes()):
                shown = path.relative_to(env.srcdir).as_posix()
                found.add(shown)
                target = app.builder.get_relative_uri(env.docname, f"{SOURCES}/{shown}")
                node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=target))
    env.visage_sources = found  # type: ignore[attr-defined]  # the environment is kept from build to build


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file or folder that is linked."""
    for shown in sorted(getattr(app.env, "visage_sources", ())):
        path = Path(app.srcdir) / shown
        title = html.escape(shown)
        body = _listed(path) if path.is_dir() else _highlighted(path)
        yield f"{SOURCES}/{shown}", {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def _listed(folder: Path) -> str:
    """The modules of a package, each with the first sentence of its docstring."""
    rows = []
    for path in sorted(folder.glob("*.py")):
        words = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(words))
        rows.append(f"<tr><td><code>{html.escape(path.name)}</code></td><td>{shown}</td></tr>")
    return f'<table class="docutils"><tbody>{"".join(rows)}</tbody></table>'


def _highlighted(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter(cssclass="highlight"))


def first_page(app: Sphinx, failed: Exception | None) -> None:
    """Let index.html of the site lead to its first page, which lies in docs/ as it does in the repository."""
    if failed is None and app.builder.name == "html":
        uri = app.builder.get_target_uri(app.config.root_doc)
        refresh = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={uri}">'
        page = f'<!doctype html><html lang="en">{refresh}<title>Visage</title><a href="{uri}">Visage</a></html>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this with Sphinx."""
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.connect("source-read", read_page)
    app.connect("doctree-read", link_sources, priority=400)  # before files to download are collected
    app.connect("autodoc-process-signature", bare_class)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon reads its sections
    app.connect("html-collect-pages", source_pages)
    app.connect("build-finished", first_page)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
