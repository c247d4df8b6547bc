"""Damages inputs of every kind, at random, and looks whether clipfeat takes each as it should.

    python scripts/mutate.py                              500 cases
    python scripts/mutate.py --count 2000 --seed 1        other and more ones
    python scripts/mutate.py --kinds sens lmdb            only some kinds of input
    python scripts/mutate.py --case 123                   one of the cases again

A run may fail on such a file, but by a clear line that names it: no traceback, no crash, no hang, no memory for what a
header only claims; and all frames that do not depend on the file come out as before. Ends with a table, and with exit
code 1 if a case did not end as it should; the files of such cases are kept. It renders the scans that it works on.
"""

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where the mutator lives

from mutation_kinds import KINDS
from mutation_worlds import make_worlds
from mutations import BAD, DAMAGES, run_cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.CRITICAL)
    numbers = args.case or range(args.count)
    results = []
    with tempfile.TemporaryDirectory(prefix="clipfeat-worlds-") as worlds:
        make_worlds(Path(worlds))
        for result in tqdm(
            run_cases(Path(worlds), numbers, args.seed, args.kinds, args.limit), total=len(numbers), unit="case"
        ):
            results.append(result)
            if result.outcome in BAD:
                tqdm.write(f"{name(result)}: {result.outcome}, {first_line(result.detail)}")
                keep(result, args.out)
            elif args.case:
                tqdm.write(f"{name(result)}: {result.outcome} {result.detail}")
    print(table(results))
    bad = sum(result.outcome in BAD for result in results)
    if bad:
        print(f"{bad} of {len(results)} cases did not end as they should; their files are in {args.out}")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="cases (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--case", nargs="+", type=int, metavar="NUMBER", help="only these cases, with what was said")
    parser.add_argument("--limit", type=float, default=10, help="seconds that a case may take (default 10)")
    parser.add_argument("--out", type=Path, default=Path("outputs/mutate"), help="folder for the files of bad cases")
    return parser


def name(result: Any) -> str:
    """Number, kind, damage and file of a case."""
    case = result.case
    return f"{case.number} {case.kind}, {case.damage}, {case.file}"


def first_line(text: str) -> str:
    """The last line of a traceback, the first of anything else."""
    lines = text.strip().splitlines() or [""]
    return lines[-1 if lines[0].startswith("Traceback") else 0][:200]


def keep(result: Any, out: Path) -> None:
    """Keeps the damaged file and what is wrong with the case."""
    case = result.case
    folder = out / f"{case.number}-{case.kind}-{case.damage}".replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detail.txt").write_text(f"{name(result)}: {result.outcome}\n{result.detail}\n")
    if case.data is not None:
        (folder / Path(case.file).name).write_bytes(case.data)


def table(results: Iterable[Any]) -> str:
    """Kind by damage: how many were done and how many failed cleanly, and what else came of them."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for result in results:
        for kind in (result.case.kind, "all"):
            for damage in (result.case.damage, "all"):
                counts[kind, damage, result.outcome] += 1
    kinds, columns = list(dict.fromkeys(kind for kind, _, _ in counts if kind != "all")), [*DAMAGES, "all"]
    rows = [["done/failed cleanly", *columns]]
    for kind in [*kinds, "all"]:
        cells = []
        for damage in columns:
            bad = [f" {counts[kind, damage, outcome]} {outcome}" for outcome in BAD if counts[kind, damage, outcome]]
            cells.append(f"{counts[kind, damage, 'done']}/{counts[kind, damage, 'failed']}{''.join(bad)}")
        rows.append([kind, *("" if cell == "0/0" else cell for cell in cells)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
