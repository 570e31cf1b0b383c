"""Embed a split and print how well it retrieves: recall@k, R-precision, MAP@R, NMI, leave-one-out."""

from sfam_bench.app.commands.embed import main

if __name__ == "__main__":
    main()
