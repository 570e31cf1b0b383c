"""Options of explain and score, as settings of Hydra: A.jpg B.jpg --NAME VALUE."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from sfam_bench.app.overrides import write_value
from sfam_bench.core.errors import UserError

IMAGES = ("query", "reference")  # settings of arguments without a name, in order
OPTIONS = {  # of each command, beside the settings of Hydra
    "explain": (
        *("--reference", "--negative", "--pairs", "--gallery", "--top", "--label", "--out"),
        *("--model", "--explainers"),
    ),
    "score": (
        *("--reference", "--negative", "--pairs", "--foreground", "--box", "--out"),
        *("--model", "--explainers", "--metrics"),
    ),
}
LISTS = {"--explainers": "explainer", "--metrics": "metrics", "--box": "box"}  # of values with commas between
PLAIN = {"--model": "model", "--top": "top"}  # values that Hydra reads as they are
WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}
ALONE = {"--resolve", "--run", "-r", "--multirun", "-m", "--hydra-help"}  # both sets are Hydra's


def to_settings(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of explain or score as settings; those of Hydra stay as they are.

    Raises UserError for an unknown option, one without a value, and more than two images.
    """
    found, left, images, options = list[str](), list(arguments), list(IMAGES), OPTIONS[command]
    while left:
        text = left.pop(0)
        name, equals, value = text.partition("=")
        if name in options:
            if not equals and not left:
                raise UserError(f"{name} has no value: give one, as in {name} VALUE")
            found.append(_setting(name, value if equals else left.pop(0)))
        elif name in WITH_VALUE:
            found += [text, *([] if equals else left[:1])]
            left = left if equals else left[1:]
        elif text.startswith("-") and name not in ALONE:
            near = get_close_matches(name, options, 2)
            meant = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(options)}"
            raise UserError(f"there is no option {name}: {meant}")
        elif (equals and not Path(text).is_file()) or text.startswith("-"):
            found.append(text)
            images = [side for side in images if side != name]
        elif not images:
            raise UserError(f"{text} is a third image: give two; several references are reference=[B.jpg,C.jpg]")
        else:
            found.append(f"{images.pop(0)}={write_value(text)}")
    return found


def _setting(option: str, value: str) -> str:
    if option in LISTS:
        return f"{LISTS[option]}=[{value.strip('[]')}]"
    if option in PLAIN:
        return f"{PLAIN[option]}={value}"
    return f"{option[2:]}={write_value(value)}"
