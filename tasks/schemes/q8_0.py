"""q8-0: GGUF with eight bits a weight, for llama.cpp and Ollama; nearest to the release."""

from tasks.schemes._scheme import Scheme

SCHEME = Scheme(
    name="q8-0",
    summary="GGUF Q8_0: INT8 weights with one scale for each block of 32, embedding and head too, for llama.cpp",
    weight_bits=8,
    activation_bits=16,
    format="gguf",
    methods=("ggml",),
    kernel="gguf",
    capability="ggml",
)
