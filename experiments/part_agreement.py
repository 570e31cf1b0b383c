"""Part agreement: do maps of one query follow which parts its many references share with it? Leaves a run folder."""

from sfam_bench.app.commands.part_agreement import main

if __name__ == "__main__":
    main()
