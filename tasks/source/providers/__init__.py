"""Where releases come from, one file a kind: `hf.py`, `file.py`, `s3.py`; a file dropped in here adds one.

A file is named as its addresses begin, and holds

    canonical(url)    the one form of an address, or ValueError with the nearest right one
    Provider          a class as `tasks.source.provider.Provider` describes it

Files that begin with `_` are shared by several kinds.
"""
