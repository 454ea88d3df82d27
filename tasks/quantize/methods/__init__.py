"""Ways to find the rounded numbers, one file each; a scheme names the one that it uses.

A method is a function `quantize(job, layer_done)`; it runs in a process of its own (`tasks/quantize/child.py`)
and may import what it likes.
"""
