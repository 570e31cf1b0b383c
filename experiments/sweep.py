"""The command sfam-bench sweep as a script."""

from sfam_bench.app.commands.sweep import main

if __name__ == "__main__":
    main()
