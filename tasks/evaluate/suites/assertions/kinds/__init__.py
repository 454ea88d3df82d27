"""The assertion kinds, one file per family; each file has a dictionary KINDS and is found by its place."""
