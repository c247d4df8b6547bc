"""Measures clipfeat-extract against its own model and against a plain loop, all in one run.

    python scripts/benchmark.py                                     the demo, ViT-B/16 with random weights
    python scripts/benchmark.py --frames 100 data.root=/data/scans  any data set: overrides as for clipfeat-extract
    python scripts/benchmark.py --frames 300 --store out            reading a run as training does
    python scripts/benchmark.py --shards 2 data.root=/data/scans    processes of a core each, against one of them
    python scripts/benchmark.py --attention model=vit_l14           forward passes by each model.attention
    python scripts/benchmark.py --backends                          the same by backend and precision, on a CPU
    python scripts/benchmark.py --map                               frames into a map, against their extraction
    python scripts/benchmark.py --packing out/fused                 a fused scene in few bytes: what is left of queries
    python scripts/benchmark.py --record 2500000 --shards 64        summing up the record of a long run

Every candidate does the same frames, in turns, warm; the figures are medians over the rounds. Writes benchmark.md,
benchmark.json and benchmark.png.
"""

import argparse
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import compose_config
from benchmarks.extraction import benchmark, chart, markdown
from benchmarks.fusing import benchmark_fuse
from benchmarks.mapping import benchmark_map
from benchmarks.packing import benchmark_packing
from benchmarks.passes import benchmark_attention, benchmark_backends
from benchmarks.pictures import benchmark_pictures
from benchmarks.projection import benchmark_views
from benchmarks.reading import benchmark_store
from benchmarks.record import benchmark_record
from benchmarks.shards import benchmark_shards

from clipfeat.output.store import FeatureStore


@dataclass(frozen=True)
class Part:
    """What is measured alone where its flag is given.

    Attributes:
        run: measures it, and says what came of it.
        told: by ``--help``.
        value: what the flag takes: nothing, N or PATH.
    """

    run: Callable[[Namespace], str]
    told: str
    value: str | None = None


PARTS = {
    "pictures": Part(
        lambda given: benchmark_pictures(compose_config(given.overrides), given.frames, given.pictures),
        "t-SNE pictures, against N frames of a plain loop (minutes each)", "N",
    ),
    "views": Part(lambda given: benchmark_views(given.rounds), "project a mesh into 100 views, against a plain loop"),
    "fuse": Part(lambda given: benchmark_fuse(given.rounds), "merge 100 views onto a mesh, against a plain loop"),
    "map": Part(
        lambda given: benchmark_map(compose_config(given.overrides), given.frames, given.rounds),
        "clipfeat-map, against clipfeat-extract output=grid",
    ),
    "packing": Part(
        lambda given: benchmark_packing(Path(given.packing), given.out),
        "fused scenes in the space of texts, packed in all ways: bytes, and what is left of queries", "PATH",
    ),
    "store": Part(
        lambda given: benchmark_store(FeatureStore(given.store), given.frames, given.rounds),
        "read a run's features as training does, against fp32 npz", "PATH",
    ),
    "record": Part(
        lambda given: benchmark_record(given.record, given.shards or 1), "sum up N lines of frames.jsonl (Linux)", "N"
    ),
    "shards": Part(
        lambda given: benchmark_shards(given.overrides, given.shards, given.rounds),
        "N processes of a core each, against one of them", "N",
    ),
    "attention": Part(
        lambda given: benchmark_attention(compose_config(given.overrides), given.frames, given.rounds),
        "forward passes, by each model.attention",
    ),
    "backends": Part(
        lambda given: benchmark_backends(compose_config(given.overrides), given.frames, given.rounds),
        "forward passes, by backend and precision of a CPU",
    ),
}  # fmt: skip
"""By their flags; of several the first is run, and ``--record`` takes the number of ``--shards``."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="frames at most (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the one that warms up (default 3)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"), help="folder for the results")
    for name, part in PARTS.items():
        if part.value is None:
            parser.add_argument(f"--{name}", action="store_true", help=f"only {part.told}")
        else:
            kind = int if part.value == "N" else str
            parser.add_argument(f"--{name}", type=kind, metavar=part.value, help=f"only {part.told}")
    parser.add_argument("overrides", nargs="*", help="as for clipfeat-extract")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipfeat").setLevel(logging.INFO)
    for name, part in PARTS.items():
        if getattr(arguments, name):
            print(part.run(arguments))
            return
    result = benchmark(compose_config(arguments.overrides), arguments.frames, arguments.rounds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmark.json").write_text(json.dumps(result, indent=2, ensure_ascii=False))
    (arguments.out / "benchmark.md").write_text(markdown(result))
    chart(result, arguments.out / "benchmark.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
