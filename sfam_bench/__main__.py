"""python -m sfam_bench: the command sfam-bench."""

import sys

from sfam_bench.app.console import main

if __name__ == "__main__":
    sys.exit(main())
