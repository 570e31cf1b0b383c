"""Writing a report never loses what its folder holds."""

from pathlib import Path

import pytest

from sfam_bench.report import writer


@pytest.mark.parametrize("failing", ["my.log", "out", "new"])
def test_what_the_folder_held_is_there_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    for name in (".notes", "my.log", "index.html"):
        (out / name).write_text(name)
    failed: list[str] = []

    def failing_once(self: Path, target: Path) -> Path:
        if self.name == failing and not failed:
            failed.append(self.name)
            raise PermissionError(f"{self} cannot be moved")
        return rename(self, target)

    monkeypatch.setattr(writer, "_check", lambda runs: None)
    monkeypatch.setattr(writer, "_write", lambda runs, fresh: (fresh / "index.html").write_text("new"))
    monkeypatch.setattr(Path, "rename", failing_once)
    with pytest.raises(PermissionError):
        writer.write_report([], out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        name: name for name in (".notes", "my.log", "index.html")
    }
    writer.write_report([], out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        **{".notes": ".notes", "my.log": "my.log"},
        "index.html": "new",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_can_be_the_report_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(writer, "_check", lambda runs: None)
    monkeypatch.setattr(writer, "_write", lambda runs, fresh: (fresh / "index.html").write_text("new"))
    writer.write_report([], Path())
    assert (tmp_path / "out" / "index.html").read_text() == "new"
