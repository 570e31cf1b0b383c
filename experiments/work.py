"""The command sfam-bench work as a script."""

from sfam_bench.app.commands.work import main

if __name__ == "__main__":
    main()
