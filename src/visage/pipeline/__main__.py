"""`python -m visage.pipeline [--jobs N]`: what `make repro` runs."""

import argparse
import os
import sys
from pathlib import Path

from visage.errors import UserError
from visage.pipeline.machine import gpus
from visage.pipeline.run import Runner


def main() -> int:
    """Run everything that is out of date; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m visage.pipeline", description="Run what is out of date, at once.")
    parser.add_argument(
        "--jobs", type=int, default=int(os.environ.get("JOBS") or 0), help="stages at once; 0 = one per GPU, or core"
    )
    asked = parser.parse_args()
    return Runner(Path.cwd(), asked.jobs, gpus()).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
