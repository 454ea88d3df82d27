"""The memory model: weights, KV cache, state and activations in bytes."""
