"""q4-k-m: GGUF with 4.9 bits a weight, for llama.cpp and Ollama where memory is short."""

from tasks.schemes._scheme import GgufMixture, Scheme

SCHEME = Scheme(
    name="q4-k-m",
    summary="GGUF Q4_K_M: llama.cpp's mixture of 4-bit and 6-bit blocks of 256, embedding and head too, for llama.cpp",
    weight_bits=4,
    activation_bits=16,
    format="gguf",
    methods=("ggml",),
    # Time: docs/explanation/gguf.md.
    gguf=GgufMixture(base="q4_K", file_type=15, nanoseconds_per_weight=90),
    kernel="gguf",
    capability="ggml",
)
