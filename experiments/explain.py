"""The command sfam-bench explain as a script."""

from sfam_bench.app.commands.explain import main

if __name__ == "__main__":
    main()
