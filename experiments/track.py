"""The command sfam-bench track as a script."""

from sfam_bench.app.commands.track import main

if __name__ == "__main__":
    main()
