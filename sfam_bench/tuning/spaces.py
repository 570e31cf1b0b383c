"""Search spaces: fields of a method and their candidate values, Optuna's distributions written in YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfam_bench.core.errors import UserError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Space:
    """The fields of a method to search: for each a list of choices, or {low, high} with log or step as in Optuna."""

    method: str
    fields: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.fields:
            raise UserError(f"the space of {self.method} names no field: add one to space.fields")

    def distributions(self, default: Mapping[str, Any]) -> dict[str, "optuna.distributions.BaseDistribution"]:
        """Convert to Optuna's distributions; UserError if one does not contain the default, which is tried first."""
        kinds = load_optuna().distributions
        found = {}
        for name, values in self.fields.items():
            try:
                if isinstance(values, list):
                    found[name] = kinds.CategoricalDistribution(values)
                elif all(type(values[end]) is int for end in ("low", "high")):
                    found[name] = kinds.IntDistribution(**values)
                else:
                    found[name] = kinds.FloatDistribution(**values)
            except (ValueError, TypeError, KeyError) as error:
                expected = "a list of choices, or low and high, optionally with log: true or step"
                raise UserError(f"space.fields.{name} is {values!r} ({error}): expected {expected}") from error
            if not contains(found[name], default[name]):
                raise UserError(f"space.fields.{name} is {values}, without the default {default[name]!r}: add it")
        return found


def contains(distribution: "optuna.distributions.BaseDistribution", value: Any) -> bool:
    """Whether a value is in a distribution."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def load_optuna() -> Any:
    """Import Optuna, which is optional, and silence its log."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("tuning needs Optuna: pip install '.[tune]' in the clone") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
