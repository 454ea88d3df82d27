"""The local stack: MLflow, Prefect, a worker, Envoy and the engines, under supervisord."""
