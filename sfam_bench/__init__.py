"""Why does this model say that these two images are alike? A benchmark of explanations for metric learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfam_bench.api import (
        compare,
        default_model,
        evaluate,
        explain,
        explain_ranking,
        save_explanations,
        save_ranking,
        score,
        show,
    )

    __version__: str

__all__ = [
    "__version__",
    "compare",
    "default_model",
    "evaluate",
    "explain",
    "explain_ranking",
    "save_explanations",
    "save_ranking",
    "score",
    "show",
]


def __getattr__(name: str) -> Any:
    """Load the API at its first use: reports import this package and must not pay for torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sfam-bench")
    if name in __all__:
        from sfam_bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'sfam_bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    """What completes in a notebook, before its first use too."""
    return sorted([*globals(), *__all__])
