"""The command sfam-bench part-agreement as a script."""

from sfam_bench.app.commands.part_agreement import main

if __name__ == "__main__":
    main()
