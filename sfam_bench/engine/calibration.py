"""Choice of the fastest mode of forward passes whose scores match float32 eager, measured and cached."""

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

from sfam_bench.core.errors import Checked, UserError, one_line
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.ranges import Count, NotNegative
from sfam_bench.core.types import Images
from sfam_bench.engine.modes import GAIN, MODES, SETUP, Function, Mode, available
from sfam_bench.engine.passes import Passes

Score = Callable[[Tensor, Tensor], Tensor]  # (items, dims), (others, dims) -> (items, others)
ON_CPU = 16  # rates hardly grow for larger batches
AGAIN = 0.1  # seconds for a mode whose rate is known, for the facts of this run alone
GROWTH = 1.05  # by which a doubled batch must be faster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration(Checked):
    """Chooses the mode of a model's forward passes.

    mode: "auto" measures the available modes for `seconds` in all and uses the fastest; any other mode is used
        directly.
    batch: inputs of a pass; null is 16 on a CPU, and on CUDA the power of two beyond which the rate no longer grows.
    tolerance: a mode whose scores on the first batch differ from float32 eager by more is not used.
    payback: a mode is tried if the seconds that it can save the run at most are this many times those to build it;
        0 tries all.
    cache: the file of rates and batch sizes by model, shape, machine and versions; null measures in every run.
    """

    mode: Literal["auto", "eager", "compiled", "half", "openvino"] = "auto"
    batch: Count | None = None
    tolerance: NotNegative = 1e-3
    seconds: NotNegative = 2.0
    payback: NotNegative = 1.0
    cache: str | None = None

    def __call__(self, model: nn.Module, score: Score, images: Images, planned: int) -> Passes:
        """Choose for a run of `planned` passes, on copies of its first images; the choice is in `facts`.

        The first measurements also decide for later runs, so that choices do not depend on the machine's load.
        """
        key = choice_key(model, images, self.batch)
        known = self.read_choice(key)
        rates = known.setdefault("rates", {})
        trial = ModeTrial(model, score, images, self.batch or known.get("batch"))
        eager = trial.time("eager", AGAIN if "eager" in rates else self.seconds / 4)
        rates.setdefault("eager", eager)
        known["batch"] = len(trial.batch)
        if self.mode != "auto":
            mode = "eager" if self.mode == "eager" else self.check_mode(trial, self.mode)
        else:
            mode = self.fastest(trial, rates, planned)
        self.write_choice(key, known)
        return trial.passes(mode)

    def check_mode(self, trial: "ModeTrial", mode: Mode) -> Mode:
        """The given mode, or eager where its scores differ too much."""
        trial.time(mode, self.seconds, self.tolerance)
        if mode in trial.refused and mode not in trial.differences:
            raise UserError(f"passes.mode={mode} cannot be used here: {trial.refused[mode]}; choose auto")
        return "eager" if mode in trial.refused else mode

    def fastest(self, trial: "ModeTrial", rates: dict[Mode, float], planned: int) -> Mode:
        """The fastest mode that pays for a run of `planned` passes, the cheapest to build tried first.

        The rates that are measured are added to the known ones in `rates`; 0 is that of a mode that cannot be used.
        """
        device = trial.batch.device
        usable: dict[Mode, float] = {"eager": rates["eager"]}
        others = [mode for mode in available(device) if mode != "eager"]
        for mode in sorted(others, key=lambda mode: SETUP[mode]):
            least = planned / (GAIN[device.type][mode] * rates["eager"])  # seconds of the run
            if planned / max(usable.values()) - least >= self.payback * SETUP[mode]:
                if mode not in rates:
                    rates[mode] = trial.time(mode, self.seconds / len(others), self.tolerance)
                usable[mode] = rates[mode]
        for best in sorted(usable, key=lambda mode: usable[mode], reverse=True):
            if best in trial.rates or (usable[best] and trial.time(best, AGAIN, self.tolerance)):
                return best
        return "eager"

    def read_choice(self, key: str) -> dict[str, Any]:
        """The cached rates and batch size for the same model, shape, machine and versions; empty without one."""
        known = self._read().get(key)
        known = known if isinstance(known, dict) else {}
        rates = known.get("rates")
        if not isinstance(rates, dict) or not rates.get("eager") or not known.get("batch"):
            return {}
        return {"rates": {mode: found for mode, found in rates.items() if mode in MODES}, "batch": known["batch"]}

    def write_choice(self, key: str, known: Mapping[str, Any]) -> None:
        """Cache a choice for later runs, where the file can be written, beside those of other runs."""
        if self.cache and (before := self._read()).get(key) != known:
            with suppress(OSError, RuntimeError, UserError):  # no right to write, no home, or no space
                path = Path(self.cache).expanduser()
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {**{name: one for name, one in before.items() if isinstance(one, dict)}, key: known})

    def _read(self) -> dict[str, Any]:
        try:
            path = Path(self.cache or "").expanduser()
            return read_json(path, "modes are measured again") if self.cache and path.is_file() else {}
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
        self.batch = self._repeat(self.size or ON_CPU)
        if self.size is None and self.images.is_cuda:
            self.batch = self._grow(eager)
        self.outputs = eager(self.batch)

    def time(self, mode: Mode, seconds: float, tolerance: float = math.inf) -> float:
        """The rate of a mode; 0 and a reason in `refused` where it cannot be built or exceeds `tolerance`."""
        try:
            if mode not in self.functions:
                with torch.no_grad():
                    self.functions[mode] = MODES[mode](self.model, self.batch)
            outputs = self.functions[mode](self.batch)
        except Exception as error:  # compilers and converters raise any exception; eager mode remains
            self.refused[mode] = f"it cannot be built ({one_line(error)[:120]})"
            return 0.0
        moved = (self.score(outputs, self.outputs) - self.score(self.outputs, self.outputs)).abs().max().item()
        self.differences[mode] = moved if math.isfinite(moved) else None  # JSON has no NaN
        if mode != "eager" and not moved <= tolerance:
            self.refused[mode] = f"scores differ by {moved:.1e} from float32 eager, more than {tolerance:.0e}"
            return 0.0
        self.rates[mode] = rate(self.functions[mode], self.batch, seconds)
        return self.rates[mode]

    def passes(self, mode: Mode) -> Passes:
        """The passes of a mode, with its measurements as facts."""
        facts = {
            **{"mode": mode, "batch": len(self.batch), "threads": torch.get_num_threads()},
            "device": self.batch.device.type,
            "images_per_second": {name: round(found, 1) for name, found in self.rates.items()},
            "score_differences": {name: moved for name, moved in self.differences.items() if name != "eager"},
            "refused": self.refused,
        }
        return Passes(self.functions[mode], len(self.batch), facts)

    def _repeat(self, size: int) -> Images:
        return self.images[torch.arange(size, device=self.images.device) % len(self.images)].contiguous()

    def _grow(self, function: Function) -> Images:
        """The batch beyond which the rate hardly grows, or memory is exhausted."""
        best, batch = 0.0, self._repeat(ON_CPU)
        while True:
            try:
                found = rate(function, batch, 0.1)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found = 0.0
            if found < best * GROWTH:
                return self._repeat(len(batch) // 2)
            best, batch = found, self._repeat(2 * len(batch))


def choice_key(model: nn.Module, images: Images, batch: int | None) -> str:
    """A hash of what a choice depends on: model, shape, machine and versions."""
    of_model = [f"{name}{tuple(value.shape)}" for name, value in model.state_dict().items()]
    device = torch.cuda.get_device_name() if images.is_cuda else platform.processor() or platform.machine()
    facts = [of_model, tuple(images.shape[1:]), batch, device, platform.node(), torch.get_num_threads()]
    facts.append(torch.__version__)
    with suppress(metadata.PackageNotFoundError):
        facts.append(metadata.version("openvino"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def rate(function: Function, batch: Tensor, seconds: float) -> float:
    """Rows for each second, over at least `seconds` after a warm-up pass."""
    finish = torch.cuda.synchronize if batch.is_cuda else lambda: None
    function(batch)
    finish()
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds or not done:
        function(batch)
        finish()
        done += len(batch)
    return done / spent
