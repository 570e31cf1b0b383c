"""The command sfam-bench report as a script."""

from sfam_bench.app.commands.report import main

if __name__ == "__main__":
    main()
