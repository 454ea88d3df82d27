"""The plan of a quantization: which layers become what, in which layout, and what that takes of the machine."""
