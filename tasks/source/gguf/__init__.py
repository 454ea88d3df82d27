"""GGUF files: their header, metadata and tensor types, read without llama.cpp."""
