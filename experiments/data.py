"""The command sfam-bench data as a script."""

from sfam_bench.app.commands.data import main

if __name__ == "__main__":
    main()
