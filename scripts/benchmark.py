"""Measures clipfeat-extract against its own model and against a plain loop, all in one run.

    python scripts/benchmark.py                                     the demo, ViT-B/16 with random weights
    python scripts/benchmark.py --frames 100 data.root=/data/scans  any data set: overrides as for clipfeat-extract
    python scripts/benchmark.py --frames 300 --store out            reading a run as training does
    python scripts/benchmark.py --shards 2 data.root=/data/scans    processes of a core each, against one of them
    python scripts/benchmark.py --attention model=vit_l14           forward passes by each model.attention
    python scripts/benchmark.py --backends                          the same by backend and precision, on a CPU
    python scripts/benchmark.py --map                               frames into a map, against their extraction
    python scripts/benchmark.py --record 2500000 --shards 64        summing up the record of a long run

Every candidate does the same frames, in turns, warm; the figures are medians over the rounds. Writes benchmark.md,
benchmark.json and benchmark.png.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from benchmarks.common import compose_config
from benchmarks.extraction import benchmark, chart, markdown
from benchmarks.fusing import benchmark_fuse
from benchmarks.mapping import benchmark_map
from benchmarks.passes import benchmark_attention, benchmark_backends
from benchmarks.pictures import benchmark_pictures
from benchmarks.projection import benchmark_views
from benchmarks.reading import benchmark_store
from benchmarks.record import benchmark_record
from benchmarks.shards import benchmark_shards

from clipfeat.output.store import FeatureStore


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="frames at most (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the one that warms up (default 3)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"), help="folder for the results")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="only t-SNE pictures, against N frames of a plain loop (minutes each)"
    )
    parser.add_argument("--views", action="store_true", help="only project a mesh into 100 views, against a plain loop")
    parser.add_argument("--fuse", action="store_true", help="only merge 100 views onto a mesh, against a plain loop")
    parser.add_argument("--map", action="store_true", help="only clipfeat-map, against clipfeat-extract output=grid")
    parser.add_argument("--store", metavar="PATH", help="only read a run's features as training does, against fp32 npz")
    parser.add_argument("--shards", type=int, metavar="N", help="only N processes of a core each, against one of them")
    parser.add_argument("--attention", action="store_true", help="only forward passes, by each model.attention")
    parser.add_argument(
        "--backends", action="store_true", help="only forward passes, by backend and precision of a CPU"
    )
    parser.add_argument("--record", type=int, metavar="N", help="only sum up N lines of frames.jsonl (Linux)")
    parser.add_argument("overrides", nargs="*", help="as for clipfeat-extract")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipfeat").setLevel(logging.INFO)
    if arguments.views:
        print(benchmark_views(arguments.rounds))
        return
    if arguments.fuse:
        print(benchmark_fuse(arguments.rounds))
        return
    if arguments.map:
        print(benchmark_map(compose_config(arguments.overrides), arguments.frames, arguments.rounds))
        return
    if arguments.attention:
        print(benchmark_attention(compose_config(arguments.overrides), arguments.frames, arguments.rounds))
        return
    if arguments.backends:
        print(benchmark_backends(compose_config(arguments.overrides), arguments.frames, arguments.rounds))
        return
    if arguments.record:
        print(benchmark_record(arguments.record, arguments.shards or 1))
        return
    if arguments.shards:
        print(benchmark_shards(arguments.overrides, arguments.shards, arguments.rounds))
        return
    if arguments.store:
        print(benchmark_store(FeatureStore(arguments.store), arguments.frames, arguments.rounds))
        return
    if arguments.pictures:
        print(benchmark_pictures(compose_config(arguments.overrides), arguments.frames, arguments.pictures))
        return
    result = benchmark(compose_config(arguments.overrides), arguments.frames, arguments.rounds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmark.json").write_text(json.dumps(result, indent=2, ensure_ascii=False))
    (arguments.out / "benchmark.md").write_text(markdown(result))
    chart(result, arguments.out / "benchmark.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
