"""`python -m visage.pipeline.one NAME`: train and measure one run with one seed, as a task of Ray, Slurm or a shell."""

import argparse
import os
import sys
from pathlib import Path

from visage.errors import UserError
from visage.pipeline.clone import digest
from visage.pipeline.task import StoppedError, Task


def main() -> None:
    """Do what the command line says, in the clone that is the working directory.

    Raises:
        UserError: a stage fails, or there is no such run.
        StoppedError: by a signal.
    """
    parser = argparse.ArgumentParser(
        prog="python -m visage.pipeline.one",
        description="Train and measure one run with one seed, after what all runs need. Several at once may do this.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", help="run and seed, such as vae-32-0")
    what.add_argument("--list", action="store_true", help="make what all runs need; print the names of those to do")
    what.add_argument("--digest", action="store_true", help="print a digest of the parameters and the code")
    asked = parser.parse_args()
    root = Path.cwd()
    if asked.digest:
        print(digest(root))
        return
    use_this_python()
    if asked.list:
        print(*Task(root).names_out_of_date(), sep="\n")
    else:
        Task(root).run(asked.name)


def use_this_python() -> None:
    """Stages are run as `python ...`, which a scheduler's bare environment may not find, or find elsewhere."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.number)
