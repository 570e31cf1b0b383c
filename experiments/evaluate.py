"""Choose pairs, explain them with every method, measure every map; leaves a self-sufficient run folder."""

from sfam_bench.app.commands.evaluate import main

if __name__ == "__main__":
    main()
