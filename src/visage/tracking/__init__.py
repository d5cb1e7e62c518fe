"""MLflow as a view of what git and DVC hold: one MLflow run for every run, size and seed, found by a tag.

Importing MLflow takes seconds of pure Python. In a thread that would stall the training for most of them, so a second
process does it: `Tracker` (client.py) hands events (events.py) through a pipe to `python -m visage.tracking.process`,
which opens the run and logs them in order (log.py, record.py). A training pays microseconds for an event, and nothing
that happens to MLflow can harm it: when logging fails, one line says so, later events are dropped, and
`python -m visage.tracking.sync` adds afterwards what is missing. When the training is killed the pipe breaks, and the
other process marks the run as killed.

An MLflow run is identified by the tag `visage.run_key` = `RunConfig.key(card)`: its config, code and data
(identity.py). Training goes on in the latest run with that key unless it is finished; evaluation joins it. Only this
package imports MLflow, and importing the package does not.
"""

from visage.tracking.client import Tracker

__all__ = ["Tracker"]
