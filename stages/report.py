"""runs/, metrics/ and data/reference/ -> report/: the page, its tables and its plots."""

from pathlib import Path

from visage.config import ReportConfig
from visage.files import replacing_folder
from visage.report.page import build_report
from visage.stage import run_stage


def main() -> None:
    root = Path.cwd()
    with replacing_folder(root / "report") as out:
        build_report(ReportConfig.load().runs, root, out)
    print("open report/index.html")


if __name__ == "__main__":
    run_stage(main)
