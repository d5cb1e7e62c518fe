import shutil
from pathlib import Path

import fake_runs
import pytest

from visage.report.page import build_report


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """Finished runs of four recipes, two sizes and, once, two seeds, and their report; read only."""
    root = fake_runs.project(tmp_path_factory.mktemp("project"))
    build_report(fake_runs.NAMES, root, root / "report")
    return root


@pytest.fixture
def small(project, tmp_path) -> Path:
    """The same runs without their report, to damage."""
    return shutil.copytree(project, tmp_path / "small", ignore=shutil.ignore_patterns("report"))
