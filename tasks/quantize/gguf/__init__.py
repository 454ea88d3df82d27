"""GGUF: a release for llama.cpp and Ollama, converted by llama.cpp's converter and quantized by ggml.

`make_gguf_recipe` chooses every tensor's type as llama.cpp's own quantizer does; `check_coverage` reads only the
written file.
"""

from tasks.quantize.gguf.convert import gguf_versions, link_release
from tasks.quantize.gguf.coverage import check_coverage
from tasks.quantize.gguf.recipe import GgufRecipe, make_gguf_recipe
from tasks.source.gguf.reader import GGUF_FILE

__all__ = ["GGUF_FILE", "GgufRecipe", "check_coverage", "gguf_versions", "link_release", "make_gguf_recipe"]
