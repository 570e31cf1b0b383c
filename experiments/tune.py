"""Tune a method's fields on training classes, the default first, and say on other training classes what that gains.

A second run goes on to the budget; a run that was killed loses the trial that was under way.
"""

from sfam_bench.app.commands.tune import main

if __name__ == "__main__":
    main()
