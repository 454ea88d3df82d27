"""Parity: does the engine compute what the artifact says? Asked before traffic, in nats, against transformers."""
