"""The command sfam-bench tune as a script."""

from sfam_bench.app.commands.tune import main

if __name__ == "__main__":
    main()
