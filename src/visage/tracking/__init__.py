"""MLflow as a view of what git and DVC hold: one MLflow run for every run, size and seed, found by a tag.

Importing MLflow takes seconds of pure Python. In a thread that would stall the training for most of them, and in every
stage it would be paid anew, so one process does it for all stages of a project: `Tracker` (client.py) hands events
(events.py) through a Unix socket (connection.py) to `python -m visage.tracking.process`, which the first stage starts,
which logs each stage's events in order (log.py, record.py), and which ends half a minute after the last stage.
A training pays microseconds for an event, and nothing that happens to MLflow can harm it: when logging fails, one line
says so, later events are dropped, and `python -m visage.tracking.sync` adds afterwards what is missing. When a training
is killed its connection breaks, and its run is marked as killed. Where there are no Unix sockets (Windows), or none can
be made, that line is all that a stage says.

The report's stage says which runs are the best ones of their image size (standings.py), and the same process has the
registry name their models (registry.py, models.py).

An MLflow run is identified by the tag `visage.run_key` = `RunConfig.key(card)`: its config, code and data
(identity.py). Training goes on in the latest run with that key unless it is finished; evaluation joins it. Runs that
differ in their seed alone stand below one that holds the mean and range of their figures (seeds.py). Only this package
imports MLflow, and importing the package does not.
"""

from visage.tracking.client import Tracker, announce

__all__ = ["Tracker", "announce"]
