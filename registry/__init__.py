"""The memory of an installation: artifacts by content, models and approvals in MLflow, and the audit log."""
