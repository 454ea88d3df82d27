"""Fit: what a model takes in memory, and on which GPUs it can be served, before anything is downloaded.

    report = report.fit(source, line)     # or DoesNotFit, with what would change it
    report.schemes                        # of the line, those worth quantizing

Nothing here imports torch; headers and `config.json` are enough. GPUs are in `gpus.yaml`, schemes in
`schemes.py`, what engines take beside the model in `profiles.yaml`.
"""
