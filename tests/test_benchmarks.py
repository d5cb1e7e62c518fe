import subprocess
import sys

from tests.conftest import ROOT

IMPORT = """
import runpy, sys
sys.path.insert(0, "benchmarks")
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="imported")
    print(path)
"""


def test_benchmarks_find_all_that_they_import():
    paths = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    command = [sys.executable, "-c", IMPORT, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == paths, done.stderr
