"""List the data sets, one line each; with a name, print how it is read and its settings.

Examples:

    sfam-bench datasets ls
    sfam-bench datasets ls folder
    sfam-bench evaluate dataset=folder dataset.root=photos pairs=pairs.csv
"""

from functools import partial

from sfam_bench.app.listing import describe_choice, list_files, list_or_show


def main() -> None:
    """Print the list or a card."""
    list_or_show("datasets", partial(list_files, "dataset"), partial(describe_choice, "dataset"), "data set")
