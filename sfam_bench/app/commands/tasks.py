"""List the experiments (experiment=NAME), which set what is trained, explained and measured; or print one.

Examples:

    sfam-bench tasks ls
    sfam-bench tasks ls planted_methods
    sfam-bench evaluate experiment=planted_methods model.checkpoint=RUN/model.safetensors
"""

from functools import partial

from sfam_bench.app.listing import describe_choice, list_files, list_or_show


def main() -> None:
    """Print the list or a card."""
    list_or_show("tasks", partial(list_files, "experiment"), partial(describe_choice, "experiment"), "task")
