"""From params.yaml to one config for each stage and run. The only place that knows how parameters become a run."""

from visage.params.code import PLUMBING, first_party_imports, run_digest
from visage.params.load import load
from visage.params.resolve import resolve
from visage.params.sections import Params
from visage.params.write import write_configs

__all__ = ["PLUMBING", "Params", "first_party_imports", "load", "resolve", "run_digest", "write_configs"]
