import shutil
from pathlib import Path

import fake_runs
import pytest

from visage.report.page import build_report


@pytest.fixture(scope="session")
def project(once) -> Path:
    """Finished runs of four recipes, two sizes and, once, two seeds, and their report; read only."""

    def fill(root: Path) -> None:
        fake_runs.project(root)
        build_report(fake_runs.NAMES, root, root / "report")

    return once("reported", fill)


@pytest.fixture
def small(project, tmp_path) -> Path:
    """The same runs without their report, to damage."""
    return shutil.copytree(project, tmp_path / "small", ignore=shutil.ignore_patterns("report"))
