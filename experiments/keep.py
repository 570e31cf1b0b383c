"""Copy a run, light enough to be committed, to where tables and figures find it; needs neither torch nor a GPU."""

from sfam_bench.app.commands.keep import main

if __name__ == "__main__":
    main()
