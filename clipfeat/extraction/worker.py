"""The work of one process: frames to files, with a model and threads that stay from one scene to the next."""

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from clipfeat.data.base import Dataset
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import FrameKey
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.lane import MAX_LANES, Done, Lane
from clipfeat.extraction.prepare import Failed, FramePreparer
from clipfeat.extraction.uv_index import open_uv_index
from clipfeat.model.base import Model
from clipfeat.output.folders import refuse_another_command_s
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.summary import Stopwatch
from clipfeat.sampling.colors import COLORED
from clipfeat.sampling.locate import Locator, build_locator
from clipfeat.sampling.segments import SegmentRule, Segments
from clipfeat.system.direct import page_buffers, reuse_memory
from clipfeat.system.shards import Shard
from clipfeat.system.streaming import prefetch, shares
from clipfeat.types import Frame
from clipfeat.vis.build import build_pictures, model_note

Outcome = Done | Failed
"""What became of a frame."""


@dataclass(frozen=True)
class Job:
    """What a process is to do, and all that it needs for it but a model.

    Attributes:
        cfg: what to run.
        locate: finds the pixels of a frame's points.
        folder: where the files go.
        dataset: where frames come from.
        stopwatch: of the process.
    """

    cfg: ExtractConfig
    locate: Locator
    folder: RunFolder
    dataset: Dataset
    stopwatch: Stopwatch


def open_job(cfg: ExtractConfig, shard: Shard) -> Job:
    """Opens what the configuration names.

    Args:
        cfg: what to run.
        shard: whose records the process writes.

    Raises:
        ClipfeatError: If something is not there, or can't be written to.
    """
    stopwatch = Stopwatch()
    locate = build_locator(cfg) if cfg.uv_index is None else open_uv_index(cfg, Path(cfg.uv_index))
    folder = RunFolder(Path(cfg.output_dir), cfg.output.name, cfg.output.dtype, shard)
    refuse_another_command_s(folder.path)
    return Job(cfg, locate, folder, build_dataset(cfg.data), stopwatch)


def _segments(rule: SegmentRule, model: Model, frame: Frame) -> Segments:
    camera = frame.color_camera
    return rule(frame, model.map_size((camera.width, camera.height)))


class Worker:
    """Takes frames to disk, in lanes.

    Args:
        job: what to do.
        model: the network; closed with this object.
        cores: that the lanes share.

    Raises:
        ConfigError: If there is no such kind of pictures.
    """

    def __init__(self, job: Job, model: Model, cores: int):
        reuse_memory()
        cfg = job.cfg
        self._job = job
        self._model = model
        # Threads that read, and that write; on a GPU they are more than those that use it.
        self._threads = cfg.num_workers or min(cores, MAX_LANES)
        self._lanes = min(self._threads, model.most_lanes or self._threads)
        self._batch_size = cfg.batch_size or model.default_batch
        self._pictures = build_pictures(
            cfg.vis,
            {},
            seed=cfg.seed,
            weights_note=model_note(model.describe()),
            processes=self._threads,
        )
        rule = SegmentRule(cfg.output.segments, cfg.output.num_segments)
        self._prepare = FramePreparer(
            job.dataset, job.locate, model.preprocess, model.network_input, job.stopwatch,
            colored=cfg.sampling.name in COLORED,
            segments=partial(_segments, rule, model) if job.folder.holds == "segments" else None,
        )  # fmt: skip
        self._writers = ThreadPoolExecutor(self._threads, thread_name_prefix="clipfeat-write")
        about = {"model": model.describe(), "sampling": cfg.sampling.name}
        # A lane samples all frames of its batch at once: as many may wait to be written, or it would wait for the disk.
        threads, buffers = max(1, cores // self._lanes), page_buffers(self._batch_size + self._threads)
        self._lane = Lane(model, job.folder, self._pictures, about, threads, self._writers, buffers, job.stopwatch)

    def work(self, frames: Sequence[FrameKey], drawn: Mapping[str, Sequence[int]]) -> Generator[Outcome, None, None]:
        """Does frames, and yields what became of each, in order; at the end all of their files and pictures are there.

        When the generator is closed, what has not begun is dropped and what has begun is waited for.

        Args:
            frames: scene after scene.
            drawn: the frames of the scenes that get pictures.

        Raises:
            FrameError: If one can't be used, and ``on_bad_frame=fail``.
            DataError: The same, of what it shares with others.
            OutputError: If something can't be written.
        """
        job, finishing = self._job, []
        self._pictures.expect(drawn)
        sizes = map(len, shares(frames, self._batch_size, self._lanes))
        # Ahead of the lanes, or they would wait where a disk or a network is slow.
        with (
            closing(prefetch(self._prepare, frames, self._threads, self._threads + 2 * self._batch_size)) as prepared,
            closing(
                prefetch(self._lane, (list(islice(prepared, size)) for size in sizes), self._lanes, self._lanes + 1)
            ) as done,  # an error ends the lanes' work too
        ):
            outcomes = (o.result() if isinstance(o, Future) else o for o in chain.from_iterable(done))
            for scene_id, of_scene in groupby(outcomes, lambda outcome: outcome.key[0]):
                sampled = []
                for outcome in of_scene:
                    if isinstance(outcome, Failed):
                        if job.cfg.on_bad_frame == "fail":
                            raise outcome.error
                        yield outcome
                    else:
                        sampled += [outcome.picture] if outcome.picture is not None else []
                        yield dataclasses.replace(outcome, picture=None)
                with job.stopwatch.stage("draw"):
                    self._pictures.draw(scene_id, sampled)
                finishing.append(self._writers.submit(job.folder.files.finish_scene, scene_id))
        with job.stopwatch.stage("draw"):
            self._pictures.wait()
        for scene in finishing:
            scene.result()

    def close(self) -> None:
        """Writes the files that are on their way, drops the pictures that have not begun, and closes the model."""
        self._pictures.cancel()
        self._writers.shutdown()
        self._model.close()
