"""q8-0: GGUF with eight bits a weight, for llama.cpp and Ollama; nearest to the release."""

from tasks.schemes._scheme import GgufMixture, Scheme

SCHEME = Scheme(
    name="q8-0",
    summary="GGUF Q8_0: INT8 weights with one scale for each block of 32, embedding and head too, for llama.cpp",
    weight_bits=8,
    activation_bits=16,
    format="gguf",
    methods=("ggml",),
    # Time: docs/explanation/gguf.md.
    gguf=GgufMixture(base="q8_0", file_type=7, nanoseconds_per_weight=5),
    kernel="gguf",
    capability="ggml",
)
