"""Which way of taking forward passes is the fastest here and still true: measured, remembered, said."""

import hashlib
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.ranges import Count, NotNegative
from sfam_bench.core.types import Images
from sfam_bench.engine.modes import MODES, Function, Mode, available
from sfam_bench.engine.passes import Passes

Score = Callable[[Tensor, Tensor], Tensor]  # (items, dims), (others, dims) -> (items, others)
ON_CPU = 16  # rates hardly grow beyond
GROWTH = 1.05  # a doubled batch must be faster by so much

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration(Checked):
    """Chooses how a model's forward passes are taken.

    mode: "auto" times what is available for `seconds` in all and takes the fastest; any other is taken as it is.
    batch: inputs a pass; null is 16 on a CPU, and on CUDA the power of two beyond which the rate no longer grows.
    tolerance: a mode whose scores differ from float32 eager by more, on the first batch, is not used.
    worthwhile: seconds that the run would last in eager mode, below which nothing else is tried: a graph costs
        seconds to build.
    cache: the file in which choices, and the eager rate and the batch that they rest on, are remembered by model,
        shape, machine and versions; null measures every time.
    """

    mode: Literal["auto", "eager", "compiled", "half", "openvino"] = "auto"
    batch: Count | None = None
    tolerance: NotNegative = 1e-3
    seconds: NotNegative = 2.0
    worthwhile: NotNegative = 60.0
    cache: str | None = None

    def __call__(self, model: nn.Module, score: Score, images: Images, planned: int) -> Passes:
        """Choose for a run of `planned` passes, on copies of its first images; the choice stands in `facts`.

        What was measured the first time decides for later runs too, so that the load of the moment does not.
        """
        key = choice_key(model, images, self.batch)
        known = self.remembered(key)
        trial = ModeTrial(model, score, images, self.batch or known.get("batch"))
        known.setdefault("rate", trial.time("eager", self.seconds / 4))
        known["batch"] = len(trial.batch)
        if self.mode != "auto":
            mode = "eager" if self.mode == "eager" else self.fixed(trial, self.mode)
        elif planned / known["rate"] < self.worthwhile:
            mode = "eager"
        else:
            mode = known["mode"] = self.fastest(trial, known.get("mode"))
        self.remember(key, known)
        return trial.passes(mode)

    def fixed(self, trial: "ModeTrial", mode: Mode) -> Mode:
        """The mode that was asked for, or eager where it is not true."""
        trial.time(mode, self.seconds, self.tolerance)
        if mode in trial.refused and mode not in trial.differences:
            raise UserError(f"passes.mode={mode} cannot be used here: {trial.refused[mode]}; choose auto")
        return "eager" if mode in trial.refused else mode

    def fastest(self, trial: "ModeTrial", known: Mode | None) -> Mode:
        """The fastest of the true modes, or what that was the last time."""
        if known and (known == "eager" or trial.time(known, self.seconds, self.tolerance)):
            return known
        others = [mode for mode in available(trial.batch.device) if mode not in ("eager", known)]
        for mode in others:
            trial.time(mode, self.seconds / len(others), self.tolerance)
        return max(trial.rates, key=lambda mode: trial.rates[mode])

    def remembered(self, key: str) -> dict[str, Any]:
        """What was measured and chosen the first time for the same model, shape, machine and versions."""
        known = self._read().get(key)
        if not isinstance(known, dict) or not known.get("batch") or not known.get("rate"):
            return {}
        return {name: value for name, value in known.items() if name != "mode" or value in MODES}

    def remember(self, key: str, known: Mapping[str, Any]) -> None:
        """Keep a choice for the next run, where it can be written; one that another run kept meanwhile stays."""
        if self.cache and (before := self._read()).get(key) != known:
            with suppress(OSError, RuntimeError, UserError):  # no right to write, no home, or no space
                path = Path(self.cache).expanduser()
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {**{name: one for name, one in before.items() if isinstance(one, dict)}, key: known})

    def _read(self) -> dict[str, Any]:
        try:
            path = Path(self.cache or "").expanduser()
            return read_json(path, "modes are measured anew") if self.cache and path.is_file() else {}
        except (OSError, RuntimeError):
            return {}
        except UserError as error:
            log.warning("%s", error)
            return {}


@dataclass
class ModeTrial:
    """Modes on one batch: their functions, images a second, differences of scores, and why some are not used."""

    model: nn.Module
    score: Score
    images: Images
    size: int | None = None
    functions: dict[Mode, Function] = field(default_factory=dict)
    rates: dict[Mode, float] = field(default_factory=dict)
    differences: dict[Mode, float | None] = field(default_factory=dict)
    refused: dict[Mode, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        eager = self.functions["eager"] = MODES["eager"](self.model, self.images)
        self.batch = self._repeated(self.size or ON_CPU)
        if self.size is None and self.images.is_cuda:
            self.batch = self._grown(eager)
        self.outputs = eager(self.batch)

    def time(self, mode: Mode, seconds: float, tolerance: float = math.inf) -> float:
        """The rate of a mode; 0 and a reason where it cannot be built, or is not true to `tolerance`."""
        try:
            if mode not in self.functions:
                with torch.no_grad():
                    self.functions[mode] = MODES[mode](self.model, self.batch)
            outputs = self.functions[mode](self.batch)
        except Exception as error:  # compilers and converters raise anything; the eager mode remains
            self.refused[mode] = f"it cannot be built ({(' '.join(str(error).split()) or repr(error))[:120]})"
            return 0.0
        moved = (self.score(outputs, self.outputs) - self.score(self.outputs, self.outputs)).abs().max().item()
        self.differences[mode] = moved if math.isfinite(moved) else None  # JSON has no NaN
        if mode != "eager" and not moved <= tolerance:
            self.refused[mode] = f"scores differ by {moved:.1e} from float32 eager, more than {tolerance:.0e}"
            return 0.0
        self.rates[mode] = rate(self.functions[mode], self.batch, seconds)
        return self.rates[mode]

    def passes(self, mode: Mode) -> Passes:
        """The mode, ready for use, with what was measured of it."""
        facts = {
            **{"mode": mode, "batch": len(self.batch), "threads": torch.get_num_threads()},
            "device": self.batch.device.type,
            "images_per_second": {name: round(found, 1) for name, found in self.rates.items()},
            "score_differences": {name: moved for name, moved in self.differences.items() if name != "eager"},
            "refused": self.refused,
        }
        return Passes(self.functions[mode], len(self.batch), facts)

    def _repeated(self, size: int) -> Images:
        return self.images[torch.arange(size, device=self.images.device) % len(self.images)].contiguous()

    def _grown(self, function: Function) -> Images:
        """The batch beyond which the rate hardly grows, or the memory ends."""
        best, batch = 0.0, self._repeated(ON_CPU)
        while True:
            try:
                found = rate(function, batch, 0.1)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found = 0.0
            if found < best * GROWTH:
                return self._repeated(len(batch) // 2)
            best, batch = found, self._repeated(2 * len(batch))


def choice_key(model: nn.Module, images: Images, batch: int | None) -> str:
    """What a choice hangs on: model, shape, machine, versions."""
    of_model = [f"{name}{tuple(value.shape)}" for name, value in model.state_dict().items()]
    device = torch.cuda.get_device_name() if images.is_cuda else platform.processor() or platform.machine()
    facts = [of_model, tuple(images.shape[1:]), batch, device, platform.node(), torch.get_num_threads()]
    facts.append(torch.__version__)
    with suppress(metadata.PackageNotFoundError):
        facts.append(metadata.version("openvino"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def rate(function: Function, batch: Tensor, seconds: float) -> float:
    """Rows a second, over at least `seconds` after one pass for warmth."""
    finish = torch.cuda.synchronize if batch.is_cuda else lambda: None
    function(batch)
    finish()
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not done:
        function(batch)
        finish()
        done += len(batch)
    return done / spent
