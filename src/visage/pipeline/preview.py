"""The page of what is finished so far, in `preview/`, while DVC still runs the rest."""

from pathlib import Path

from visage.config import ReportConfig
from visage.files import replacing_folder
from visage.report.page import build_report
from visage.stage import run_stage


def main() -> None:
    """Draw it."""
    root = Path.cwd()
    with replacing_folder(root / "preview") as out:
        build_report(ReportConfig.load().runs, root, out)


if __name__ == "__main__":
    run_stage(main)
