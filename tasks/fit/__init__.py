"""Fit: what a model takes in memory and what it costs, on which GPUs, before anything is downloaded.

    report = report.fit(source, line)                    # a line's: or DoesNotFit, with what would change it
    rows = catalogue.catalogue(shape.shape_of("hf://org/model"), Request(context=8192))
    costs = cost.cost(rows, ...)                         # per month, against a hosted API

One row = weights (`weights.py`) + cache (`kv.py`, `pages.py`) + what the engine takes (`engine_memory.py`).
Data, one entry each: `gpus.yaml`, `prices.yaml`, `architectures.yaml`, `schemes.py`, `engines/`. Nothing here imports
torch, unless only transformers knows an architecture and no headers are at hand (`meta.py`).
"""
