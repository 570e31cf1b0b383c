"""The command sfam-bench metrics as a script."""

from sfam_bench.app.commands.metrics import main

if __name__ == "__main__":
    main()
