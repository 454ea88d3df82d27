"""The memory of the watch: a ledger on disk, and a run in MLflow for each decision."""
