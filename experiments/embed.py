"""The command sfam-bench embed as a script."""

from sfam_bench.app.commands.embed import main

if __name__ == "__main__":
    main()
