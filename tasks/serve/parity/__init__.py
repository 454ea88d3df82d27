"""Parity gate: an engine's answers are compared with transformers' before it gets traffic, in nats."""
