"""The memory: artifacts by content, models and approvals in MLflow."""
