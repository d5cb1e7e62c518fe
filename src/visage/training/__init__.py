"""The one training loop. It knows no model, no DVC and no MLflow."""
