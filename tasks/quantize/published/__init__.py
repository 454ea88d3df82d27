"""Releases that their publishers quantized: file layouts by method, and the check of the files."""
