"""Cost: what serving a model costs a month on your own GPUs, against a hosted API."""
