"""`python -m tasks.serve.engines.ollama`, the older name of `python -m tasks.engines.ollama`."""

import sys

from tasks.engines.ollama import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
