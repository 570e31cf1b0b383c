"""The command sfam-bench evaluate as a script."""

from sfam_bench.app.commands.evaluate import main

if __name__ == "__main__":
    main()
