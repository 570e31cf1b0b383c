"""Processes forked from one that has imported what tests need there, since imports take seconds."""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
_names: list[str] = []


def preload(*modules: str) -> None:
    """Import these before the first process is forked, beside those of other tests."""
    _names.extend(modules)
    PROCESSES.set_forkserver_preload(_names)
