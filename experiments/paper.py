"""The command sfam-bench paper as a script."""

from sfam_bench.app.commands.paper import main

if __name__ == "__main__":
    main()
