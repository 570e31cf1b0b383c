"""Render tables, figures and the page of one or more run folders; needs neither torch nor a GPU."""

from sfam_bench.app.commands.report import main

if __name__ == "__main__":
    main()
