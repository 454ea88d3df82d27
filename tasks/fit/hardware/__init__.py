"""The GPUs: what they have, what is free now, and what an engine really took."""
