"""The command sfam-bench keep as a script."""

from sfam_bench.app.commands.keep import main

if __name__ == "__main__":
    main()
