"""Print the table of metrics, and write the page of cards."""

from sfam_bench.app.commands.metrics import main

if __name__ == "__main__":
    main()
