"""The command sfam-bench intervene as a script."""

from sfam_bench.app.commands.intervene import main

if __name__ == "__main__":
    main()
