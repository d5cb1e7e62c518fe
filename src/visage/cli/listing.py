"""`visage models`, `visage runs`: what there is."""

from typing import Annotated, Any

import typer

from visage.cli import output

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
FIGURES = ("recon_mse", "bits_per_dim", "fd_attr128", "auroc")
"""Headline figures of a run, one for each task."""


def models(json: Json = False) -> None:
    """List the recipes that can be trained: their model, its paper, and what it can do.

    Example: `visage models --json | jq '.[].recipe'`
    """
    from visage.using.catalogue import recipes

    found = recipes()
    if json:
        output.as_json(found)
    else:
        rows = [[one["recipe"], one["title"], one["paper"], ", ".join(one["can"])] for one in found]
        output.table(("recipe", "model", "paper", "can"), rows)


def runs(json: Json = False) -> None:
    """List the runs that are trained here, with their headline figures and where they are.

    Example: `visage runs --json | jq -r '.[] | [.run, .figures.fd_attr128.value] | @tsv'`
    """
    from visage.measures.table import BY_KEY
    from visage.using.catalogue import trained

    found = trained(FIGURES)
    if json:
        output.as_json(found)
        return
    head = ("run", *(BY_KEY[metric].title for metric in FIGURES), "folder")
    rows = [[one["run"], *(_cell(one["figures"], metric) for metric in FIGURES), one["folder"]] for one in found]
    output.table(head, rows)


def _cell(figures: dict[str, Any], metric: str) -> str:
    return figures[metric]["text"] if metric in figures else "–"


COMMANDS = (models, runs)
