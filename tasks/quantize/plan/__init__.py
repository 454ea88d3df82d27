"""The plan of a quantization: which layers are quantized, in which layout, and the resources that takes."""
