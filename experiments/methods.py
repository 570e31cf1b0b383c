"""The command sfam-bench methods as a script."""

from sfam_bench.app.commands.methods import main

if __name__ == "__main__":
    main()
