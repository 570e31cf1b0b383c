"""Render the numbered tables and the figures of the benchmark out of stored records; needs neither torch nor a GPU."""

from sfam_bench.app.commands.paper import main

if __name__ == "__main__":
    main()
