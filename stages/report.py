"""runs/ and data/ -> metrics/, the plain figures; and report/: the page, its tables and its plots."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.config import ReportConfig, RuntimeConfig
from visage.files import replacing_folder
from visage.machine import cores
from visage.metrics import publish
from visage.report.page import build_report
from visage.stage import run_stage
from visage.tracking import announce
from visage.tracking.standings import best_runs


def main() -> None:
    root, runs = Path.cwd(), ReportConfig.load().runs
    publish(root, runs)
    with replacing_folder(root / "report") as out:
        build_report(runs, root, out, cores())
    announce(Path(os.environ.get("DVC_ROOT", root)), RuntimeConfig.load().experiment, best_runs(root, runs))
    print("open report/index.html")


if __name__ == "__main__":
    run_stage(main, cost=Path("metrics/cost/report.json"))  # the last one, which may write there
