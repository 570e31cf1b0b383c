"""The command sfam-bench score as a script."""

from sfam_bench.app.commands.score import main

if __name__ == "__main__":
    main()
