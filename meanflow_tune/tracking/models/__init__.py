"""Students as MLflow logged models and registered models."""
