"""The pipeline of dvc.yaml, with stages that do not depend on each other at once. DVC runs and records each of them."""
