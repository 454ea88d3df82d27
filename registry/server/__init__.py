"""Code that runs inside MLflow's server: the record of every change, and rules that MLflow's permissions lack."""
