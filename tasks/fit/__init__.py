"""Fit: how much memory a model takes, and on which GPUs it fits, before its weights are downloaded.

    report = report.fit(source, line)                    # a line's: or DoesNotFit, with what would change it
    rows = catalogue.catalogue(shape.shape_of(settings, "hf://org/model"), FitRequest(context=8192))

One row = weights (`memory/weights.py`) + cache (`memory/kv.py`, `memory/pages.py`) + what the engine takes (its memory
profile, `tasks/engines/`). Data, one entry each: `hardware/gpus.yaml`, `model/architectures.yaml`; one file each:
`tasks/schemes/`, `tasks/engines/`. Nothing here imports torch, unless only transformers knows an architecture and no
safetensors headers are at hand (`model/from_transformers.py`).
"""
