"""`visage`: the commands, and how they end."""

import typer

from visage.cli import drawing, giving, judging, listing
from visage.stage import run_stage

app = typer.Typer(
    name="visage",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Use trained models of faces: sample, put photographs through them, judge images, give models away.

    A RUN is named as on the page, `vae-64-0`, or `vae-64` for its lowest seed; or it is a folder: `runs/<run>`, or one
    that `visage export` wrote. Stages are run by `make repro` and `dvc repro`, not by this command.
    """,
)
for group in (listing, drawing, judging, giving):
    for command in group.COMMANDS:
        app.command()(command)


def run() -> None:
    """The program's entry point: errors that a user can fix are one line on standard error, and exit status 1."""
    run_stage(app)


if __name__ == "__main__":
    run()
