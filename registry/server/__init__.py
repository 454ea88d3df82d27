"""What runs inside MLflow's own server: the record of every change, and the rules that MLflow's rights lack."""
