"""Releases that come quantized: how their publishers lay layers out, and whether the files hold that."""
