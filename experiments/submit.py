"""The command sfam-bench submit as a script."""

from sfam_bench.app.commands.submit import main

if __name__ == "__main__":
    main()
