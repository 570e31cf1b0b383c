"""The protocol lines above a table: data, model, pairs, passes and accuracy."""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.protocol import CHOICES
from sfam_bench.core.verification import verification_facts
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import to_prose
from sfam_bench.runs.reader import Run
from sfam_bench.statistics import FACTS

OUTSIDE = "Outside the protocol"
EMBEDDING = "Embedding"
IN_A_LINE = (
    *("Data set", "Model", EMBEDDING, "Training", OUTSIDE, "Target"),
    *("Split", "Pairs", "Steps", "Curves", "Cost", "Code"),
)
PLAIN = ("Data set", "Model", "Code")  # whose texts need no name
OF_PAIR = (  # values of a pair (core.records.FACT) in prose; `interaction` before the parts, which match it too
    (r"s_full", "similarity"),
    (r"s_headless", "similarity without the head"),
    (r"s_base_(.+)", r"similarity with the query replaced by \1"),
    (r"effect_interaction", "interaction of effects"),
    (r"effect_(.+)_error", r"its standard error"),
    (r"effect_(.+)", r"effect of \1"),
)
FULL = 225  # points of metrics.perturbation.FULL, which cannot be imported without torch


def describe_protocol(run: Run, summary: pd.DataFrame, errors: np.ndarray) -> list[tuple[str, str]]:
    """The protocol of a run as (name, text) lines; `errors` are the integration errors."""
    facts = run.manifest
    split, found, kinds = facts.get("split") or {}, facts.get("retrieval") or {}, run.pairs["kind"].value_counts()
    of_pair = summary[summary["explainer"] == FACTS]
    counts = facts.get("image_counts") or {}
    of_gallery = {"queries" if name == "count" else to_prose(name): _fact(value) for name, value in found.items()}
    code = re.sub(r"(?<=^\w{10})\w+", "", facts.get("git", "unknown"))  # short, but still -dirty
    catalogue = Catalogue.of(facts)
    sampled = any(catalogue.fact(metric, "steps") for metric in summary["metric"].unique())
    lines = {
        "Data set": facts.get("dataset"),
        "Model": facts.get("model"),
        EMBEDDING: describe_embedding(facts.get("embedding")),
        "Training": describe_training(facts.get("protocol")),
        OUTSIDE: describe_violations(facts),
        "Unfinished": f"{run.unfinished} batches" if run.unfinished else "",
        "Tuned": "; ".join(map(_describe_tuning, (facts.get("tuned") or {}).items())),
        "Target": ", ".join(filter(None, [facts.get("target"), facts.get("similarity")])),
        "Split": " ".join(filter(None, [split.get("name"), f"(hash {split['hash']})" if split.get("hash") else ""])),
        "Images": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "Retrieval": ", ".join(f"{name} {value}" for name, value in of_gallery.items()),
        "Intervention": _describe_intervention(facts.get("intervention") or {}),
        "Pairs": f"{len(run.pairs)}: " + ", ".join(f"{count} {to_prose(str(kind))}" for kind, count in kinds.items()),
        "Episodes": _list_facts(facts.get("episodes") or {}),
        "Verification": _list_facts(verification_facts(run.pairs)),
        "Means over pairs": ", ".join(
            f"{_name_fact(str(row.metric))} {_fact(row.mean)}" for row in of_pair.itertuples()
        ),
        "Steps": _describe_steps(facts.get("steps") or {}),
        "Curves": _describe_errors(errors) if sampled else "",
        "Cost": f"{facts['core_hours']:.2g} core hours" if facts.get("core_hours") else "",
        "Passes": _describe_passes(facts.get("passes") or {}),
        "Left out": describe_left_out(facts),
        "Code": f"git {code}, config {facts.get('config_hash')}, seed {facts.get('seed')}{_describe_codes(facts)}",
        "Made": facts.get("created"),
    }
    return [(name, str(text)) for name, text in lines.items() if text]


def _list_facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{to_prose(name)} {_fact(value)}" for name, value in facts.items())


def protocol_line(run: Run, summary: pd.DataFrame, errors: np.ndarray) -> str:
    """The most important lines of the protocol as one."""
    lines = dict(describe_protocol(run, summary, errors))
    texts = (lines[name] if name in PLAIN else f"{name.lower()} {lines[name]}" for name in IN_A_LINE if name in lines)
    return "; ".join(texts)


def describe_left_out(facts: Mapping[str, Any]) -> str:
    """The metrics without values and the methods that do not support the model, with the reasons; empty without any."""
    skipped, catalogue = facts.get("skipped") or [], Catalogue.of(facts)
    said = [name for name in skipped if ": " in name]
    by_need: dict[str, list[str]] = {}
    for metric in catalogue.scores(name for name in skipped if name not in said):
        needs = " and ".join(catalogue.fact(metric, "needs") or [])
        why = f"metrics that need {needs}, which the data set lacks" if needs else "metrics without the data they need"
        by_need.setdefault(why, []).append(f"“{catalogue.label(metric)}”")
    bare = [f"{why}: {', '.join(some)}" for why, some in by_need.items()]
    unsupported = [f"{name}: {why}" for name, why in (facts.get("unsupported") or {}).items()]
    return "; ".join([*bare, *said, *unsupported])


def _name_fact(metric: str) -> str:
    """A value of the pair in prose; the effects of parts are followed by their standard errors."""
    return next(
        (match.expand(words) for form, words in OF_PAIR if (match := re.fullmatch(form, metric))), metric
    ).replace("_", " ")


def describe_embedding(embedding: str | None) -> str:
    """What the embedding is where it is not the network's own; empty where it is, or was not recorded."""
    return "" if embedding in (None, "own") else f"{embedding}, not the network's own output"


def describe_violations(facts: Mapping[str, Any]) -> str:
    """The protocol violations of a run with this manifest; empty without any."""
    return "; ".join((facts.get("protocol") or {}).get("allowed", {}).values())


def describe_training(facts: Mapping[str, Any] | None) -> str:
    """How the weights were chosen and what they were trained on; empty for runs that do not record it."""
    if facts is None:
        return ""
    if not facts["chosen"]:
        return f"none here, weights: {weights}" if (weights := facts.get("weights")) else "none here, initial weights"
    chosen, split = CHOICES[facts["chosen"]], facts.get("trained_on")
    on = f"on {split['dataset']}, {split['name']}: {split['classes']} classes (hash {split['hash']})" if split else ""
    return ", ".join(filter(None, [chosen, on, f"by {facts['source']}"]))


def _describe_intervention(check: Mapping[str, Any]) -> str:
    """The share of retrieved classes that repainting each part changes, and whether the model counts."""
    if not check:
        return ""
    flips = ", ".join(f"{part} {_fact(share)}" for part, share in check["flips"].items() if share is not None)
    verdict = f"does not count: {check['fails']}" if check["fails"] else f"uses {' and '.join(check['causes'])}"
    return f"{verdict}; classes changed by repainting: {flips} ({check['queries']} queries)"


def _describe_codes(facts: Mapping[str, Any]) -> str:
    """The batches by code version, if the run was continued with other code (resume=anyway)."""
    made = "; ".join(f"code {code[:10]} batches {numbers}" for code, numbers in (facts.get("codes") or {}).items())
    return f"; continued with other code: {made}" if made else ""


def _describe_tuning(study: tuple[str, Mapping[str, Any]]) -> str:
    """The tuned fields of each method, with trials and objective."""
    name, facts = study
    fields = ", ".join(f"{field} {value}" for field, value in facts["chosen"].items())
    trials = f"{facts['budget']['completed']} trials on training classes"
    return f"{name}: {fields} ({trials} for {facts['objective']['metric']})"


def _describe_steps(rule: Mapping[str, Any]) -> str:
    """The sampling of curves, such as: Midpoint, intervals 20."""
    name = str(rule.get("_target_", "")).rpartition(".")[2]
    return ", ".join([name, *(f"{key} {value}" for key, value in rule.items() if key != "_target_")]) if name else ""


def _describe_errors(errors: np.ndarray) -> str:
    """The observed integration errors, or that none was measured."""
    if not len(errors):
        return f"no curve was recomputed in full ({FULL} points): the area error was not measured"
    median, most, worst = np.quantile(errors, [0.5, 0.95, 1])
    return (
        f"{len(errors)} random curves recomputed in full ({FULL} points) as a check: area error median {median:.2g}, "
        f"95 % {most:.2g}, at most {_round_up(worst, 2):.2g}"
    )


def _describe_passes(facts: Mapping[str, Any]) -> str:
    """The mode of forward passes, and the bound of the score differences it causes."""
    mode, moved = facts.get("mode"), facts.get("score_differences", {}).get(facts.get("mode"))
    within = "" if moved is None else f"scores within {_round_up(moved, 1):.1g} of float32 eager"
    return ", ".join(filter(None, [mode, f"batch {facts['batch']}" if "batch" in facts else "", within]))


def _round_up(value: float, digits: int) -> float:
    """The value rounded up, so that it remains an upper bound."""
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(str(float(value))))


def _fact(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
