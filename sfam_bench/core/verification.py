"""Verification: whether two images show the same, by a threshold on their score; accuracy, EER and ROC."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from sfam_bench.core.errors import UserError

FOLDS = 10

Values = Float[np.ndarray, " pairs"]
Flags = Bool[np.ndarray, " pairs"]


def roc_curve(scores: Values, same: Flags) -> pd.DataFrame:
    """The rates of all accept thresholds: a pair is accepted if its score is at least `threshold`.

    Columns: threshold, from infinity (nothing is accepted) downwards; false_accepts, the share of different pairs that
    are accepted; true_accepts, the share of same pairs that are. Needs pairs of both kinds.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], same[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are accepted together
    true, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    return pd.DataFrame(
        {
            "threshold": np.append(np.inf, ranked[last]),
            "false_accepts": np.append(0.0, false / max((~same).sum(), 1)),
            "true_accepts": np.append(0.0, true / max(same.sum(), 1)),
        }
    )


def equal_error(roc: pd.DataFrame) -> tuple[float, float]:
    """The equal error rate, interpolated between the thresholds next to it, and the lower of these thresholds."""
    false, missed = roc["false_accepts"].to_numpy(), 1 - roc["true_accepts"].to_numpy()
    at = int(np.argmax(false >= missed))  # both rates are 1 and 0 at the ends, so that at > 0
    ahead, behind = missed[at - 1] - false[at - 1], false[at] - missed[at]
    share = ahead / (ahead + behind)
    return float(false[at - 1] + share * (false[at] - false[at - 1])), float(roc["threshold"].iloc[at])


def best_threshold(scores: Values, same: Flags) -> float:
    """The threshold of the highest accuracy, midway between two scores; the highest of equally good ones."""
    roc = roc_curve(scores, same)
    correct = roc["true_accepts"] * same.sum() - roc["false_accepts"] * (~same).sum()
    thresholds = np.append(roc["threshold"].to_numpy(), -np.inf)
    best = int(np.argmax(correct))
    return float(thresholds[best : best + 2].mean()) if best > 0 else np.inf


def accept_pairs(scores: Values, same: Flags) -> Flags:
    """Whether each pair is accepted, by the best threshold of the other folds (as LFW's protocol; Huang et al., 2007).

    Same and different pairs are dealt to the folds in turn, in the order of the list. Needs two pairs of each kind.
    """
    folds = min(FOLDS, int(same.sum()), int((~same).sum()))
    fold = np.where(same, np.cumsum(same), np.cumsum(~same)) % folds
    accepted = np.zeros(len(scores), dtype=bool)
    for k in range(folds):
        accepted[fold == k] = scores[fold == k] >= best_threshold(scores[fold != k], same[fold != k])
    return accepted


def verification_facts(pairs: pd.DataFrame) -> dict[str, float | int]:
    """Counts, accuracy, equal error rate with its threshold, and area under the ROC, of stored pairs.

    `pairs` has the columns score and kind; empty if the kinds are not those of judged pairs (same_accepted, ...).
    """
    judged = _read_kinds(pairs)
    if judged is None:
        return {}
    same, accepted = judged
    roc = roc_curve(pairs["score"].to_numpy(), same)
    rate, threshold = equal_error(roc)
    return {
        "same": int(same.sum()),
        "different": int((~same).sum()),
        "accuracy": float((accepted == same).mean()),
        "equal_error_rate": rate,
        "equal_error_threshold": threshold,
        "roc_auc": float(np.trapezoid(roc["true_accepts"], roc["false_accepts"])),
    }


def roc_of_pairs(pairs: pd.DataFrame) -> pd.DataFrame | None:
    """The `roc_curve` of stored pairs; None if their kinds are not those of judged pairs."""
    judged = _read_kinds(pairs)
    return None if judged is None else roc_curve(pairs["score"].to_numpy(), judged[0])


def _read_kinds(pairs: pd.DataFrame) -> tuple[Flags, Flags] | None:
    """Which pairs are the same, and which are accepted, by their kinds."""
    judged = pairs["kind"].str.extract(r"^(same|different)_(accepted|rejected)$")
    if judged.isna().any(axis=None) or judged[0].nunique() < 2:
        return None
    return (judged[0] == "same").to_numpy(), (judged[1] == "accepted").to_numpy()


def calibrate(scores: Values, same: Flags, far: float | None = None) -> float:
    """The threshold at which a pair is accepted: at equal errors, or the lowest with at most `far` false accepts.

    Raises:
        UserError: without same and different pairs, or if no score is accepted at `far`.
    """
    if same.all() or not same.any():
        raise UserError(
            "a threshold needs pairs of the same and of different classes: calibrate it on two classes or more"
        )
    roc = roc_curve(scores, same)
    if far is None:
        return equal_error(roc)[1]
    allowed = roc[(roc["false_accepts"] <= far) & np.isfinite(roc["threshold"])]
    if allowed.empty:
        raise UserError(f"no threshold has at most {far:g} false accepts: the highest score is of different classes")
    return float(allowed["threshold"].iloc[-1])
