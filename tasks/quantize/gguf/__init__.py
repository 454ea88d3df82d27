"""GGUF: a release for llama.cpp and Ollama, converted by llama.cpp's converter and quantized by ggml.

`plan` decides every tensor's type as llama.cpp's own quantizer would; `check_coverage` believes only the file.
"""

from tasks.quantize.gguf.convert import gguf_versions, show
from tasks.quantize.gguf.coverage import check_coverage
from tasks.quantize.gguf.recipe import GgufRecipe, plan
from tasks.source.gguf.reader import GGUF_FILE

__all__ = ["GGUF_FILE", "GgufRecipe", "check_coverage", "gguf_versions", "plan", "show"]
