"""The command sfam-bench train as a script."""

from sfam_bench.app.commands.train import main

if __name__ == "__main__":
    main()
