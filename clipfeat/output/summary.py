"""What a run did: seconds a stage, points by status, bytes, memory; as a dictionary and as a short table."""

import platform
import re
import resource
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from clipfeat.output.records import visible_share
from clipfeat.output.totals import Totals
from clipfeat.types import PointStatus

LOW_VISIBLE_SHARE = 0.6
LOW_MESH_SHARE = 0.05


class Stopwatch:
    """Adds up the seconds of each stage, from any thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self.start = time.perf_counter()
        self.before = 0.0

    @contextmanager
    def stage(self, name: str, own: dict[str, float] | None = None) -> Iterator[None]:
        """Times the block under ``name``, in total and, if given, in a frame's ``own`` record."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            with self._lock:
                self.seconds[name] += spent
            if own is not None:
                own[name] = round(own.get(name, 0.0) + spent, 5)

    def begin(self) -> None:
        """The first frame begins: what came before, such as loading the model, is no part of the speed."""
        self.before = self.total()

    def take(self) -> dict[str, float]:
        """The seconds of each stage since they were last taken, for a stopwatch of another process to ``add``."""
        with self._lock:
            seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds what another stopwatch has measured."""
        with self._lock:
            for name, spent in seconds.items():
                self.seconds[name] += spent

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self.start


def status_counts(status: Any) -> dict[str, int]:
    """Points by the lower-case name of their status, from an array of ``PointStatus``."""
    counts = np.bincount(status, minlength=len(PointStatus)).tolist()
    return {s.name.lower(): counts[s] for s in PointStatus}


def summarize(
    totals: Totals,
    stopwatch: Stopwatch,
    frames_now: int,
    about: dict[str, Any],
    *,
    interrupted: bool,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        totals: of all runs into the folder.
        stopwatch: of this run.
        frames_now: frames done by this run.
        about: what was run: the model (``ClipModel.describe()``) and the sampling.
        interrupted: whether the run was stopped before its end.
    """
    scenes = {scene_id: scene for scene_id, scene in totals.scenes.items() if scene.frames}
    frames, size = (sum(getattr(scene, name) for scene in scenes.values()) for name in ("frames", "size"))
    left_out = sum(failure["frame_id"] is None for failure in totals.failures)
    seconds = stopwatch.total()
    return {
        "frames": frames,
        "failed": len(totals.failures) - left_out,
        "scenes_left_out": left_out,
        "failures": totals.failures,
        "frames_without_depth": sum(scene.without_depth for scene in scenes.values()),
        "bytes": size,
        "bytes_per_frame": round(size / frames) if frames else 0,
        "points": dict(sum((scene.points for scene in scenes.values()), Counter())),
        "visible_share": {scene_id: round(visible_share(scene.points), 4) for scene_id, scene in scenes.items()},
        "run": {
            "frames": frames_now,
            "seconds": round(seconds, 3),
            "seconds_before_frames": round(stopwatch.before, 3),
            "frames_per_second": round(frames_now / max(seconds - stopwatch.before, 1e-3), 3),
            "seconds_a_stage": {name: round(value, 3) for name, value in sorted(stopwatch.seconds.items())},
            "interrupted": interrupted,
            **peak_memory(),
        },
        **about,
        "machine": machine(),
        "versions": versions(),
    }


def merge_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes of one run did together: the ``run`` of its ``summary.json``.

    Args:
        runs: the ``run`` of each of their summaries.

    Returns:
        The same keys. Frames and the seconds of stages are added up; seconds and memory are those of the process that
        took most, and frames a second hold if all began together.
    """
    seconds, frames = max((run["seconds"] for run in runs), default=0.0), sum(run["frames"] for run in runs)
    working = max((run["seconds"] - run.get("seconds_before_frames", 0.0) for run in runs), default=0.0)
    stages: Counter[str] = Counter()
    for run in runs:
        stages.update(run["seconds_a_stage"])
    memory = {key for run in runs for key in run if key.startswith("peak_")}
    return {
        "shards": len(runs),
        "frames": frames,
        "seconds": seconds,
        "seconds_before_frames": max((run.get("seconds_before_frames", 0.0) for run in runs), default=0.0),
        "frames_per_second": round(frames / max(working, 1e-3), 3) if seconds else 0.0,
        "seconds_a_stage": {name: round(value, 3) for name, value in sorted(stages.items())},
        "interrupted": any(run["interrupted"] for run in runs),
        **{key: max(run.get(key, 0) for run in runs) for key in sorted(memory)},
    }


def own_points(counts: Mapping[str, int], sampling: str) -> bool:
    """Whether all points are such as frames measured themselves: that each is visible in its own says nothing."""
    return sampling == "depth" and counts.get("visible", 0) == sum(counts.values())


def points_said(counts: Mapping[str, int], sampling: str) -> str:
    """How many points there are, and what share is visible if that can be another than all."""
    total = sum(counts.values())
    if own_points(counts, sampling):
        return f"{total:,} points"
    return f"{visible_share(counts):.0%} of {total:,} points visible"


def peak_memory() -> dict[str, int]:
    """Peak resident bytes of this process, and allocated bytes of the GPU where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return peak


def machine() -> dict[str, Any]:
    """What the run ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "threads": torch.get_num_threads(), "gpu": gpu, "system": platform.system()}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a file in the usual sense
            return next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine()
            )
    except OSError:
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"clipfeat": version("clipfeat"), "python": platform.python_version()}
    for package in ("torch", "open_clip_torch", "numpy", "pillow", "h5py"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _before(run: Mapping[str, Any]) -> str:
    before = run.get("seconds_before_frames", 0.0)
    return f", of which {before:.1f} s before the first frame" if before else ""


def summary_table(summary: dict[str, Any]) -> str:
    """The few lines that end a run."""
    run, points, model = summary["run"], summary["points"], summary["model"]
    total = max(sum(points.values()), 1)
    # Visible, occluded and out of view always; what else there is, if there is any.
    shown = [name for name in points if points[name]]
    shown = list(dict.fromkeys(["visible", "occluded", "out_of_view", *shown]))
    shares = ", ".join(f"{100 * points.get(name, 0) / total:.1f} % {name.replace('_', ' ')}" for name in shown)
    stages = "  ".join(f"{name} {seconds:.1f}" for name, seconds in run["seconds_a_stage"].items())
    left_out = f", {summary['scenes_left_out']} scenes left out" if summary["scenes_left_out"] else ""
    memory = f"{run['peak_memory_bytes'] / 2**30:.2f} GiB"
    if "peak_gpu_memory_bytes" in run:
        memory += f", GPU {run['peak_gpu_memory_bytes'] / 2**30:.2f} GiB"
    if own_points(points, summary["sampling"]):
        shares = f"{sum(points.values()):,}, of the frames' own depth"
    rows = [
        ("frames", f"{summary['frames']} done ({run['frames']} now), {summary['failed']} failed{left_out}"),
        ("speed", f"{run['frames_per_second']:.2f} frames/s, {run['seconds']:.1f} s in all{_before(run)}"),
        ("seconds a stage", stages),
        ("peak memory", memory),
        ("size", f"{summary['bytes_per_frame'] / 1e6:.2f} MB a frame, {summary['bytes'] / 1e6:.1f} MB in all"),
        ("points", shares),
        ("weights", f"{model['weights']} ({model['weights_sha256']}), head {model['head']}"),
    ]  # fmt: skip
    return "\n".join(f"  {name:<16} {value}" for name, value in rows)


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What a user should look at before trusting the features."""
    likely = "a wrong pose direction, a K of another resolution or a wrong depth scale look like this"
    if summary["sampling"] == "mesh":
        likely = "a mesh of another scene, in other units or other axes looks like this, and so do wrong poses"
    found = [
        f"{scene}: only {share:.{0 if share >= 0.01 else 2}%} of its points are visible; {likely}"
        for scene, share in low_shares(summary).items()
    ]
    if summary["frames_without_depth"]:
        found.append(
            f"{summary['frames_without_depth']} of {summary['frames']} frames have no depth file; in them the points "
            f"hide each other (camera.zbuffer), which is right for some nine in ten of them"
        )
    if summary["failures"]:
        shown = [f"{name_of(f)}: {f['why'].removeprefix(f'{name_of(f)}: ')}" for f in summary["failures"][:5]]
        more = len(summary["failures"]) - len(shown)
        found += [f"failed: {line}" for line in shown]
        found += [f"… and {more} more failed frames, all listed in frames.jsonl"] if more else []
    return found


def low_shares(summary: dict[str, Any]) -> dict[str, float]:
    """The visible shares of the scenes in which suspiciously few points are visible."""
    return {scene: share for scene, share in summary["visible_share"].items() if share < least_share(summary)}


def least_share(summary: dict[str, Any]) -> float:
    """The visible share below which something looks wrong with a scene."""
    # Points that come from the frame itself are seen in it. Of a whole scene's mesh, no frame sees much.
    return LOW_MESH_SHARE if summary["sampling"] == "mesh" else LOW_VISIBLE_SHARE


def name_of(failure: dict[str, Any]) -> str:
    """A frame, or a scene that could not be read."""
    scene_id, frame_id = failure["scene_id"], failure["frame_id"]
    return scene_id if frame_id is None else f"{scene_id} frame {frame_id}"


def reason_of(failure: Mapping[str, Any]) -> str:
    """Why a frame failed, without what differs from one to the next: files, the scene's name, numbers.

    ``/d/s1/pose/20.txt: 3 values, expected 16`` is ``# values, expected #``.
    """
    why: str = failure["why"]
    head, separator, tail = why.partition(": ")
    if separator and ("/" in head or str(failure["scene_id"]) in head):
        why = tail
    why = re.sub(r"\S*/\S*", "…", why.replace(str(failure["scene_id"]), "…"))
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", why).strip()
