"""A writer of ``.sens`` recordings for the tests, made from the format's description alone.

It streams: a file of many gigabytes needs the memory of one frame.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COLOR_CODES = {"raw": 0, "png": 1, "jpeg": 2}
DEPTH_CODES = {"raw": 0, "zlib": 1}
FIXED = 96
"""Bytes of a frame before its blobs; the sizes of the blobs are the last 16 of them."""


def encode_color(image, kind="jpeg", quality=92):
    """An (H, W, 3) uint8 picture as a recording stores it."""
    if kind == "raw":
        return np.ascontiguousarray(image, np.uint8).tobytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": quality} if kind == "jpeg" else {"compress_level": 1}))
    return buffer.getvalue()


def encode_depth(depth, kind="zlib"):
    """(h, w) uint16 depth as a recording stores it."""
    raw = np.ascontiguousarray(depth, "<u2").tobytes()
    return zlib.compress(raw, 6) if kind == "zlib" else raw


class SensWriter:
    """``with SensWriter(path, …) as sens: sens.add(color_blob, depth_blob, pose)``.

    Codes, extrinsics, the version and the declared number of frames can be wrong on purpose.
    """

    def __init__(
        self, path, color_size, depth_size, color_k, depth_k, *, color="jpeg", depth="zlib", depth_shift=1000.0,
        extrinsics=None, sensor=b"StructureSensor", version=4, declared=None,
    ):  # fmt: skip
        self.file = path.open("wb")
        self.declared, self.starts = declared, []
        self.file.write(struct.pack("<IQ", version, len(sensor)) + sensor)
        color_extrinsic, depth_extrinsic = extrinsics or (np.eye(4), np.eye(4))
        for matrix in (_four(color_k), color_extrinsic, _four(depth_k), depth_extrinsic):
            self.file.write(np.asarray(matrix, "<f4").tobytes())
        codes = COLOR_CODES.get(color, color), DEPTH_CODES.get(depth, depth)
        self.file.write(struct.pack("<2i4If", *codes, *color_size, *depth_size, depth_shift))
        self.count_at = self.file.tell()
        self.file.write(struct.pack("<Q", 0))

    def add(self, color_blob, depth_blob, pose):
        self.starts.append(self.file.tell())
        stamp = len(self.starts)
        self.file.write(np.asarray(pose, "<f4").tobytes())
        self.file.write(struct.pack("<4Q", stamp, stamp, len(color_blob), len(depth_blob)))
        self.file.write(color_blob)
        self.file.write(depth_blob)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        imu = 2
        self.file.write(struct.pack("<Q", imu) + bytes(np.random.default_rng(0).bytes(128 * imu)))
        self.file.seek(self.count_at)
        self.file.write(struct.pack("<Q", len(self.starts) if self.declared is None else self.declared))
        self.file.close()


def write_like(path, frames, *, color="png", depth="zlib", **options):
    """Writes ``Frame``s of equal sizes, depth in millimetres; returns the writer, which knows where each starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = frames[0]
    cameras = first.color_camera, first.depth_camera
    sizes = [(c.width, c.height) for c in cameras]
    with SensWriter(path, *sizes, *(c.intrinsics for c in cameras), color=color, depth=depth, **options) as sens:
        for frame in frames:
            raw = np.round(frame.depth_m * 1000).astype(np.uint16)
            kinds = color if color in COLOR_CODES else "png", depth if depth in DEPTH_CODES else "zlib"
            sens.add(encode_color(frame.image, kinds[0]), encode_depth(raw, kinds[1]), frame.cam_to_world)
    return sens


def patch(path, offset, data):
    """Overwrites bytes."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _four(k):
    four = np.eye(4)
    four[:3, :3] = k
    return four
