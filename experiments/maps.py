"""The command sfam-bench maps as a script."""

from sfam_bench.app.commands.maps import main

if __name__ == "__main__":
    main()
