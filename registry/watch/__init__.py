"""The watch's memory: a ledger on disk, and a run in MLflow for each decision."""
