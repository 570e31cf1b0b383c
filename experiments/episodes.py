"""The command sfam-bench episodes as a script."""

from sfam_bench.app.commands.episodes import main

if __name__ == "__main__":
    main()
