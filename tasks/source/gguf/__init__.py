"""Read GGUF files without llama.cpp: header, metadata and tensor types."""
