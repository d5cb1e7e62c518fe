# Two commands do all: `make repro` and `make test`. Each brings uv where it is missing and installs from the lock file.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# uv: the one on the PATH, else a private one in .uv/
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export DVC_NO_ANALYTICS := 1
# modules are compiled when they are first imported, and this would have it done anew by each of a hundred processes
export PYTHONDONTWRITEBYTECODE :=
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help install repro test test-long test-cluster test-fuzz test-kills test-faults audit bench ui sync docs
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# a folder of its own, because many systems forbid pip to install beside their own packages; some bring venv but no pip
.uv/bin/uv:
	@echo "installing uv into .uv/"
	@python3 -m pip install --quiet --disable-pip-version-check --target .uv 'uv>=0.9' 2>/dev/null \
	  || { python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'; } \
	  || { echo "error: python3 has neither pip nor venv: install one of them, or uv, then run make again" >&2; exit 1; }

install: $(filter .uv/bin/uv,$(UV)) ## make the environment from uv.lock, unless UV_NO_SYNC says that it is there
	$(if $(UV_NO_SYNC),,$(UV) sync --locked --quiet --inexact $(EXTRAS))

repro: install ## train, measure and compare everything that is out of date; JOBS=n: stages at once
	$(UV) run --locked python -m visage.pipeline
	@echo
	@echo "The report:         report/index.html  (open it in a browser)"
	@echo "All runs in MLflow: make ui"
	@echo "Change one thing:   $(UV) run dvc exp run -S model.beta=1.2"

# what `visage demo`, `export --onnx`, `publish` and films need is tested where it is asked for
test test-long: EXTRAS := --extra demo --extra onnx --extra hub --extra video
test: install ## lint, types and the tests; not the long ones
	$(UV) run --locked ruff check .
	$(UV) run --locked ruff format --check .
	$(UV) run --locked mypy
	$(UV) run --locked pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: install ## what the tests check in short: at other sizes, in more ways; the notebook; the code as on Windows
	$(UV) run --locked pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

test-cluster: $(filter .uv/bin/uv,$(UV)) ## tests on a small Ray cluster, and on Slurm where that is installed
	$(UV) sync --locked --quiet --compile-bytecode --extra ray
	$(UV) run --locked --extra ray pytest tests/pipeline -m cluster

test-fuzz: install ## 2,000 damaged or made-up inputs of each kind: params, annotations, images, archives, records, checkpoints
	VISAGE_FUZZ=2000 $(UV) run --locked pytest -n 2 -m "not cluster" tests/test_fuzz.py

test-kills: install ## kill the pipeline 100 times, and compare what it makes with an undisturbed run; takes an hour
	$(UV) run --locked python -m tests.kills

audit: $(filter .uv/bin/uv,$(UV)) ## known vulnerabilities of what uv.lock names, from PyPI's database
	$(UV) export --locked --quiet --no-emit-project --format requirements-txt | $(UV) tool run pip-audit --disable-pip --requirement /dev/stdin

test-faults: install ## full and read-only disks, few files, little memory, two runners at once; as root, twenty minutes
	$(UV) run --locked python -m tests.faults

bench: install ## how fast we are beside bare loops; writes benchmarks/results.md; needs data/raw, and a quiet machine
	OMP_NUM_THREADS=1 $(UV) run --locked python benchmarks/ratios.py

ui: install ## MLflow on http://127.0.0.1:5000 (or PORT=...), or where MLFLOW_TRACKING_URI says
	$(UV) run --locked python -m visage.tracking.ui

sync: install ## rebuild in MLflow what it lacks, from metrics/ and runs/
	$(UV) run --locked python -m visage.tracking.sync

docs: install ## bring the generated parts of README.md and docs/ up to date, and build the site in site/
	$(UV) run --locked python -m visage.documentation
	$(UV) run --locked python -m sphinx --builder html --conf-dir docs --doctree-dir .scratch/doctrees \
	  --fail-on-warning --keep-going --nitpicky --quiet . site
	@echo "The site: site/index.html  (open it in a browser)"
