"""One batch of prepared frames to disk: forward, sample, write.

Several lanes run at once, each in a thread of its own. On a CPU every lane computes with one core: lanes never wait for
each other as the threads of one matrix product do, so that decoding and writing cost no more than their own work. On
a GPU there are a few, each with a stream of its own, so that it computes for one while another copies; frames are read
and files written by more threads than that.
"""

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.camera.projection import transform_points, world_to_cam
from clipfeat.data.selection import FrameKey
from clipfeat.errors import FrameError
from clipfeat.extraction.prepare import Failed, Prepared
from clipfeat.model.base import Model
from clipfeat.model.batches import fetch, is_finite
from clipfeat.output.grid import GridFrame
from clipfeat.output.records import done_record
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.segments import SegmentFrame
from clipfeat.output.summary import Stopwatch
from clipfeat.sampling.bilinear import sample_img_feat
from clipfeat.sampling.segments import Segments, pooled
from clipfeat.system.direct import PageBuffer
from clipfeat.system.shards import usable_cores
from clipfeat.types import FeatureMap, PointFeatures
from clipfeat.vis.pictures import Pictures, SampledFrame

MAX_LANES = 16

Features = PointFeatures | SegmentFrame | FeatureMap
"""What a lane makes of a frame, for who writes it."""

Made = tuple[FeatureMap, bool] | FrameError
"""A frame's map and whether it is finite, or why there is none."""


@dataclass(frozen=True, eq=False)
class Done:
    """A frame whose file is written.

    Attributes:
        key: scene and frame number.
        counts: its points by status.
        size: bytes of the file.
        picture: what its picture needs, or None.
    """

    key: FrameKey
    counts: dict[str, int]
    size: int
    picture: SampledFrame | None


def default_lanes() -> int:
    """As many as this process may use cores."""
    return min(usable_cores(), MAX_LANES)


@dataclass(frozen=True)
class Lane:
    """Works through batches; safe to call from several threads.

    Attributes:
        model: the network.
        folder: where the files go.
        pictures: what they need is taken here, while the features are at hand.
        about: what a file says of the run.
        threads: that each lane computes with.
        writers: threads that write the files.
        buffers: memory for sampled features. They are 15 MB a frame: no more frames wait to be written than there are
            buffers.
        stopwatch: of the run; lanes add up, so its stages may exceed the wall clock's time.
    """

    model: Model
    folder: RunFolder
    pictures: Pictures
    about: dict[str, Any]
    threads: int
    writers: Executor
    buffers: "SimpleQueue[PageBuffer]"
    stopwatch: Stopwatch
    _local: threading.local = field(default_factory=threading.local)

    def __call__(self, frames: Sequence[Prepared | Failed]) -> list["Failed | Future[Done]"]:
        """Does a batch; the files may still be on their way. Bad frames are recorded, any other error is raised."""
        if not hasattr(self._local, "ready"):
            torch.set_num_threads(self.threads)  # OpenMP keeps this number a thread
            self._local.ready = True
        ready = [frame for frame in frames if isinstance(frame, Prepared)]
        with self.model.stream():
            with self.stopwatch.stage("model"):
                made = iter(self._make(ready))
            # Whole pictures, perhaps, and no longer wanted while their files wait to be written.
            left = [dataclasses.replace(f, network_input=None) if isinstance(f, Prepared) else f for f in frames]
            return [self._finish(f, next(made)) if isinstance(f, Prepared) else self._fail(f) for f in left]

    def _make(self, frames: Sequence[Prepared]) -> list[Made]:
        try:
            maps = self.model.feature_maps([f.network_input for f in frames], [f.image_size for f in frames])
        except FrameError as error:  # of a picture that is decoded there; which it is shows when each is alone
            return [error] if len(frames) == 1 else [made for frame in frames for made in self._make([frame])]
        half, stay = self.folder.holds == "map", self.folder.holds == "points"
        return list(self.model.with_memory(lambda: fetch(maps, half=half, stay=stay)))

    def _finish(self, frame: Prepared, made: Made) -> "Failed | Future[Done]":
        if isinstance(made, FrameError):
            return self._fail(Failed(frame.key, made))
        feature_map, finite = made
        # Of the map and not of the samples: it is 25 times smaller, and bilinear weights make nothing infinite.
        narrow = self.folder.holds != "map" and self.folder.dtype == "float16"
        if not finite or (narrow and not is_finite(feature_map.values.half())):
            of_maps = " or output=npz: a grid is float16" if self.folder.holds == "map" else ""
            other = " or output.dtype=float32" if narrow else of_maps
            why = f"{frame.key[0]} frame {frame.key[1]}: the features hold inf or NaN; try model.precision=fp32{other}"
            return self._fail(Failed(frame.key, FrameError(why)))
        buffer = self.buffers.get()
        with ExitStack() as unless_written:
            unless_written.callback(self.buffers.put, buffer)  # or the other lanes would wait for it for ever
            features = self._features(frame, feature_map, buffer)
            picture = self._picture(frame, features)
            meta = frame_meta(frame, feature_map.image_to_map) | self.about
            written = self.writers.submit(self._write, frame, features, meta, picture, buffer)
            unless_written.pop_all()  # the writer gives it back
            return written

    def _features(self, frame: Prepared, feature_map: FeatureMap, buffer: PageBuffer) -> Features:
        """What a writer makes a file of; of a map as it is, it finds the places of the points itself."""
        if self.folder.holds == "map":
            return feature_map
        if frame.segments is not None:
            return self.pool(frame, feature_map, frame.segments)
        return self.sample(frame, feature_map, buffer)

    def _picture(self, frame: Prepared, features: Features) -> SampledFrame | None:
        scene_id, frame_id = frame.key
        rows = self.pictures.choose(scene_id, frame_id, len(frame.located.uv_idx))
        if rows is None:  # its pixels may never be needed
            return None
        with self.stopwatch.stage("picture", frame.seconds):
            if isinstance(features, PointFeatures):
                chosen = features.take(rows)
            elif isinstance(features, SegmentFrame):
                chosen = features.take(rows).features()
            else:
                chosen = self.sample(dataclasses.replace(frame, located=frame.located.take(rows)), features)
            path = self.folder.picture_path(scene_id, frame_id)
            return self.pictures.sample(scene_id, frame_id, frame.frame.image, chosen, path)

    def _write(
        self,
        frame: Prepared,
        features: Features,
        meta: dict[str, Any],
        picture: SampledFrame | None,
        buffer: PageBuffer,
    ) -> Done:
        """Writes a frame's file, and its line when the file is there."""
        scene_id, frame_id = frame.key
        try:
            with self.stopwatch.stage("write", frame.seconds):
                whole = keep(frame, features) if isinstance(features, FeatureMap) else features
                size = self.folder.write(scene_id, frame_id, whole, meta)
        finally:
            self.buffers.put(buffer)
        self.folder.append_record(done_record(scene_id, frame_id, meta, size, frame.seconds))
        return Done(frame.key, frame.counts, size, picture)

    def sample(self, frame: Prepared, feature_map: FeatureMap, buffer: PageBuffer | None = None) -> PointFeatures:
        """The features of a frame's visible points, where possible in the buffer's memory.

        A GPU's come there by one copy, in the type that they are written in.
        """
        located = frame.located
        own, memory = None, None
        if buffer is not None and feature_map.values.device.type == "cpu":
            own = buffer.floats(len(located.uv_idx), len(feature_map.values))
        elif buffer is not None:
            memory = partial(buffer.floats, dtype=self.folder.dtype, pinned=True)
        with self.stopwatch.stage("sample", frame.seconds):
            pts_feat = self.model.with_memory(
                lambda: self.model.point_features(sample_img_feat(feature_map, located.uv_idx, own), memory)
            )
            if buffer is not None and memory is None:
                pts_feat = buffer.hold(pts_feat, self.folder.dtype)
        return PointFeatures(
            pts_feat=pts_feat,
            uv_idx=located.uv_idx,
            conf_2d=located.conf_2d,
            xyz=located.points.xyz.astype(np.float32),
            pts_idx=located.points.idx,
            attributes=located.points.attributes,
            clip_global=_global(feature_map),
        )

    def pool(self, frame: Prepared, feature_map: FeatureMap, segments: Segments) -> SegmentFrame:
        """The map's mean over each segment, and the places of a frame's visible points."""
        with self.stopwatch.stage("sample", frame.seconds):
            means = torch.from_numpy(pooled(feature_map, segments, frame.image_size))
            segment_feat = self.model.point_features(means)
        return SegmentFrame(
            segments=segments,
            segment_feat=segment_feat,
            clip_global=_global(feature_map),
            **_places(frame),
        )

    def _fail(self, failed: Failed) -> Failed:
        scene_id, frame_id = failed.key
        record = {"scene_id": scene_id, "frame_id": frame_id, "status": "failed", "why": str(failed.error)}
        self.folder.append_record(record)
        return failed


def keep(frame: Prepared, feature_map: FeatureMap) -> GridFrame:
    """The map and the places of a frame's visible points in it; nothing is sampled."""
    return GridFrame(feature_map=feature_map, **_places(frame))


def _global(feature_map: FeatureMap) -> NDArray[np.float32] | None:
    return None if feature_map.clip_global is None else feature_map.clip_global.numpy()


def _places(frame: Prepared) -> dict[str, Any]:
    """The attributes of ``PlacedPoints``."""
    located, pose = frame.located, frame.frame.cam_to_world
    return {
        "camera": frame.frame.color_camera,
        "cam_to_world": pose,
        "uv_idx": located.uv_idx,
        "depth_m": transform_points(world_to_cam(pose), located.points.xyz)[:, 2].astype(np.float32),
        "conf_2d": located.conf_2d,
        "pts_idx": located.points.idx,
        "attributes": located.points.attributes,
    }


def frame_meta(frame: Prepared, image_to_map: NDArray[np.float64]) -> dict[str, Any]:
    """What a feature file says of its frame."""
    return {
        "scene_id": frame.frame.scene_id,
        "frame_id": frame.frame.frame_id,
        "camera": frame.frame.color_camera.meta(),
        "cam_to_world": frame.frame.cam_to_world.tolist(),
        "image_to_map": image_to_map.tolist(),
        "points": frame.counts,
        "depth": frame.frame.depth_m is not None,
    }
