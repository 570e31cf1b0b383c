"""Download a data set from its configured addresses, with checksums, continuing where an earlier try broke off."""

from sfam_bench.app.commands.data import main

if __name__ == "__main__":
    main()
