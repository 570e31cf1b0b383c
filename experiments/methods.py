"""Print the table of methods, with what each costs and leaves over on a few pairs, and write the page of cards."""

from sfam_bench.app.commands.methods import main

if __name__ == "__main__":
    main()
