"""Break inputs of every kind, and count what becomes of them: python -m benchmarks.fuzz [--kinds data,configs]."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = ROOT / "results" / "bench" / "fuzz.json"


def main() -> None:
    """Run the kinds that are asked for, write the counts and the list of what is wrong, and print a table."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))  # before torch, and for processes begun elsewhere
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path not in ("", "."))]
    from benchmarks.fuzz.campaign import KINDS, campaign, table  # imports torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS), help="each with a count of its own if any, as in data:12")
    parser.add_argument(
        "--count", type=int, default=150, help="inputs of each kind; copies of each file for damage: 100"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the one input of this number")
    parser.add_argument("--seconds", type=float, default=60, help="after which an attempt hangs")
    parser.add_argument("--key", default="after", help="under which the counts stand in the JSON file: before or after")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    counts = {
        name: int(own or given.count) for name, _, own in (kind.partition(":") for kind in given.kinds.split(","))
    }
    if unknown := counts.keys() - set(KINDS):
        parser.error(f"no kind {', '.join(unknown)}: choose among {', '.join(KINDS)}")
    known = json.loads(given.out.read_text()) if given.out.is_file() else {}
    found = known.setdefault(given.key, {})
    with tempfile.TemporaryDirectory(prefix="fuzz-shared-") as shared:
        for kind, count in counts.items():
            numbers = range(count) if given.only is None else [given.only]
            found[kind] = campaign(kind, numbers, given.seed, given.seconds, Path(shared))
            if given.only is None:
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table({kind: found[kind] for kind in counts}))
    if given.only is not None:
        print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
