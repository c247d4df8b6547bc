"""What a frame costs on a machine with a GPU, part by part and end to end; ``scripts/gpu_check.sh`` calls it.

    python scripts/gpu_profile.py scans work/scans --copies 48      four rooms, and links to them
    python scripts/gpu_profile.py parts work/scans --out work       model, lanes, copies, JPEG, resize, cores, disk
    python scripts/gpu_profile.py runs work/scans --out work        clipfeat-extract, each run with what bounds it

Writes profile.json and extract.txt. With ``--device cpu`` little is done of each: it shows that all of it can be run.
"""

import argparse
import json
import logging
import resource
import time
import warnings
from pathlib import Path


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scans", "parts", "runs"], help="what to do")
    parser.add_argument("root", type=Path, help="folder of the scans")
    parser.add_argument("--copies", type=int, default=1, help="scenes that are made of each room (default 1)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the results")
    parser.add_argument("--arch", default="ViT-B-16", help="open_clip's name of the model (default ViT-B-16)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<n> or cpu (default cuda)")
    parser.add_argument("--seconds", type=float, default=150, help="that the runs may take together (default 150)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if arguments.what == "scans":
        from gpu_parts.scans import make_scans

        print(f"  {make_scans(arguments.root, arguments.copies)} frames")
    elif arguments.what == "parts":
        measure_parts(arguments)
    else:
        make_runs(arguments)


def measure_parts(arguments: argparse.Namespace) -> None:
    """Each part by itself."""
    from gpu_parts import copies, host, model, pictures
    from gpu_parts.common import Bench

    bench = Bench.of(arguments.root, arguments.arch, arguments.device, arguments.out / "profile.json")
    for part in (
        model.rates, host.preparing, copies.disk, model.lanes, model.launching, model.precision, copies.copies,
        copies.sampling, pictures.jpeg, pictures.resize,
    ):  # fmt: skip
        bench.part(part)
    bench.note("peak of the host", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def make_runs(arguments: argparse.Namespace) -> None:
    """The first run warms up: what is compiled is compiled, and the pictures are in memory."""
    from gpu_parts.runs import Runs

    from clipfeat.system.shards import usable_cores

    profile, scratch = arguments.out / "profile.json", arguments.root.parent
    rates = json.loads(profile.read_text())["rates"] if profile.is_file() else {}
    scenes, gpu = sorted(path.name for path in arguments.root.iterdir()), arguments.device != "cpu"
    few = scratch / "few.txt"
    few.write_text("\n".join(scenes[: 16 if gpu else 2]))
    overrides = [
        "data=scannet", f"data.root={arguments.root}", f"model.arch={arguments.arch}", "model.pretrained=null",
        "vis=none", "report=false", f"device={arguments.device}",
    ]  # fmt: skip
    told = arguments.out / "extract.txt"
    run = Runs(scratch, overrides, rates, time.monotonic() + arguments.seconds, told)
    some = f"scenes_file={few}"
    all_or_some, cores = [] if gpu else [some], usable_cores()
    run("warming up", "output=grid", some)
    run("grid", "output=grid", *all_or_some)
    run("grid, pictures resized by the cores", "output=grid", "model.resize_on=cpu", *all_or_some)
    if gpu:
        run("grid, JPEGs by the GPU", "output=grid", "model.jpeg=gpu", *all_or_some)
    run("npz of float32", "output=npz", some)
    for count in sorted({max(cores // 4, 2), max(cores // 2, 2)}):
        run(f"grid, devices={count}", "output=grid", *all_or_some, processes=count)
    run("npz of float16", "output=npz", "output.dtype=float16", some)
    run("grid, num_workers=4", "output=grid", "num_workers=4", *all_or_some)


if __name__ == "__main__":
    main()
