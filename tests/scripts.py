"""What tests of scripts share: small images, and an outcome that must be a success or one line of an error."""

from collections.abc import Callable

Outcome = tuple[int, str, str]  # exit code, stdout, stderr
Run = Callable[..., Outcome]
DATA = ["dataset.size=32", "dataset.train_per_class=2", "dataset.test_per_class=2", "model.image_size=32"]


def ok(outcome: Outcome) -> str:
    """The output of a script that must succeed."""
    code, out, err = outcome
    assert code == 0, err
    return out


def refused(outcome: Outcome, *words: str) -> None:
    """A script must end with one error that holds these words; progress bars and warnings may precede it."""
    code, _, err = outcome
    assert code == 2, err
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    says(line, *words)


def mistake(outcome: Outcome) -> str:
    """The error of a script that must print nothing else and end with it."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.replace("\r", "\n").splitlines() if "error" in line.lower()]
    assert len(lines) == 1, err
    assert err.rstrip("\n").endswith(lines[0])
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 1000  # a group's choices are all listed
    return lines[0].removeprefix("error: ")


def says(found: str, *words: str) -> None:
    """A text must hold these words."""
    assert [word for word in words if word not in found] == [], found
