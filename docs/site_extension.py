"""What the site has and the repository does not: a table of contents, MathML, pages for source files, docstrings."""

import html
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
ENTRY = re.compile(r"^- \[[^\]]+\]\(([^)]+)\.md\)", flags=re.M)
"""A line of docs/index.md or docs/models/index.md that is an entry of the table of contents."""

FIELD = re.compile(r"[a-z]\w*: \S")
"""The beginning of a line of a docstring that says what a field is, or an argument."""


# --- Mathematics, at build time and without a script


def _mathml(node: nodes.Node, display: bool) -> str:
    try:
        return latex2mathml.tex2mathml(node.astext(), as_block=display)
    except MathError as problem:
        raise ExtensionError(
            f"{node.source or 'a table'}:{node.line or ''}: {problem} in {node.astext()!r}"
        ) from problem


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write `$...$` as MathML."""
    self.body.append(_mathml(node, display=False))
    raise nodes.SkipNode


def displayed_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    self.body.append(f'<div class="math">{_mathml(node, display=True)}</div>\n')
    raise nodes.SkipNode


# --- What the pages leave to the site: their order, and docstrings


def read_page(app: Sphinx, page: str, text: list[str]) -> None:
    """Turn the lists of an index into tables of contents, and comments that name a module into its docstrings."""
    if page == app.config.root_doc:
        sections = re.findall(r"^## ([^\n]+)\n(.+?)(?=^## |\Z)", text[0], flags=re.M | re.S)
        entries = {words: ENTRY.findall(section) for words, section in sections}
        known = {os.path.normpath(f"docs/{name}") for names in entries.values() for name in names}
        more = [name for name in sorted(app.project.docnames) if re.fullmatch(r"docs/[^/]+|benchmarks/.*", name)]
        # pages that no line names: a way to them until one does
        entries["More"] = [f"/{name}" for name in more if name not in known | {page}]
        text[0] += "".join(_contents(words, names) for words, names in entries.items() if names)
    elif page == "docs/models/index":
        text[0] += _contents("", ENTRY.findall(text[0]))
    elif page.startswith("benchmarks/"):
        text[0] = f"# benchmarks/{Path(page).name}.md\n\n{text[0]}"  # the programs that write them give them no title
    text[0] = re.sub(r"<!-- autodoc: ([\w.]+) -->", lambda found: _docstrings(found[1]), text[0])


def _contents(caption: str, names: list[str]) -> str:
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    return f"\n```{{toctree}}\n{options}\n" + "\n".join(names) + "\n```\n"


def _docstrings(module: str) -> str:
    try:
        there = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its package
        there = None
    if there is None:
        return ""
    return f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```"


def escape_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn plain text with `code` and lines "field: meaning" into what Sphinx reads: literals, and a list of fields."""
    found, in_field = [], False
    for line in lines:
        in_field = bool(FIELD.match(line)) or (in_field and line.startswith("    "))
        pieces = line.split("`")
        text = "``".join(
            piece if i % 2 else re.sub(r"\||\*(?=\S)", r"\\\g<0>", piece) for i, piece in enumerate(pieces)
        )
        if FIELD.match(line):
            found += ["", f"* {text}"]
        else:
            found.append(text[2:] if in_field else text)
    lines[:] = found


# --- Links to files and folders of the repository


def link_sources(app: Sphinx, tree: nodes.document) -> None:
    """Let links to files and folders that are no pages lead to pages that show them."""
    env = app.env
    found = getattr(env, "visage_sources", set())
    for node in [*tree.findall(download_reference), *tree.findall(pending_xref)]:
        if node.get("reftype") == "myst" and node.get("refdomain") is None:
            path = Path(env.relfn2path(node["reftarget"], env.docname)[1])
            if path.exists():
                shown = path.relative_to(env.srcdir).as_posix()
                found.add(shown)
                target = app.builder.get_relative_uri(env.docname, f"{SOURCES}/{shown}")
                node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=target))
    env.visage_sources = found  # type: ignore[attr-defined]  # the environment is kept from build to build


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file and folder that is linked, and for the files of these folders."""
    root, waiting, done = Path(app.srcdir), sorted(getattr(app.env, "visage_sources", ())), set()
    while waiting:
        shown = waiting.pop()
        if shown in done:
            continue
        done.add(shown)
        path = root / shown
        if path.is_dir():
            files = sorted(file.name for file in path.iterdir() if file.is_file() and file.suffix != ".pyc")
            waiting += [f"{shown}/{name}" for name in files]
            items = "".join(f'<li><a href="{path.name}/{name}.html">{html.escape(name)}</a></li>' for name in files)
            body = f"<ul>{items}</ul>"
        else:
            body = _highlighted(path)
        title = html.escape(shown)
        yield f"{SOURCES}/{shown}", {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


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
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon reads its sections
    app.connect("html-collect-pages", source_pages)
    app.connect("build-finished", first_page)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
