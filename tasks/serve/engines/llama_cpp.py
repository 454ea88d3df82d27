"""`python -m tasks.serve.engines.llama_cpp`, the older name of `python -m tasks.engines.llama_cpp`."""

import sys

from tasks.engines.llama_cpp import main

if __name__ == "__main__":
    main(sys.argv[1:])
