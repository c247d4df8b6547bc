"""Small ``.sens`` recordings, and frames to make them of."""

import numpy as np
from sens_writer import SensWriter, encode_color, encode_depth, write_like
from twins import random_pose

from clipfeat.data.sens import SensDataset
from clipfeat.types import Camera, Frame, Picture

SCENE = "scene0000_00"
JPEG = encode_color(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8))
DEPTH = encode_depth(np.ones((6, 8)))


def small_frames():
    """Five small frames; colour and depth differ in size, depth holds 0 and 65535."""
    rng = np.random.default_rng(0)
    v, u = np.indices((12, 16))
    made = []
    for number in range(5):
        raw = rng.integers(500, 3000, (6, 8), dtype=np.uint16)
        raw[0, :2] = 0, 65535
        made.append(
            Frame(
                scene_id=SCENE,
                frame_id=number,
                picture=Picture.of(np.stack([40 * number + u, 200 - 3 * v, u + v], axis=-1).astype(np.uint8)),
                depth_m=raw / np.float32(1000),
                color_camera=Camera(np.array([[14.1, 0, 7.6], [0, 14.2, 5.4], [0, 0, 1]]), 16, 12),
                depth_camera=Camera(np.array([[7.1, 0, 3.6], [0, 7.2, 2.4], [0, 0, 1]]), 8, 6),
                cam_to_world=random_pose(rng),
            )
        )
    return made


def small_recording(folder):
    """A recording of ``small_frames`` and the bytes at which they start."""
    path = folder / f"{SCENE}.sens"
    return path, write_like(path, small_frames()).starts


def one_frame(path, color_blob, depth_blob, **options):
    """The data set of the folder of a recording of one frame, which it writes."""
    k_color, k_depth = ([[f, 0, f / 2], [0, f, f / 3], [0, 0, 1]] for f in (14.0, 7.0))
    with SensWriter(path, (16, 12), (8, 6), k_color, k_depth, **options) as sens:
        sens.add(color_blob, depth_blob, np.eye(4))
    return SensDataset(path.parent)


def assert_same_frames(a, b):
    """Two frames hold the same numbers, to the last bit."""
    for key in ("image", "depth_m", "cam_to_world"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
        assert getattr(a, key).dtype == getattr(b, key).dtype
    for key in ("color_camera", "depth_camera"):
        np.testing.assert_array_equal(getattr(a, key).intrinsics, getattr(b, key).intrinsics)
        assert (getattr(a, key).width, getattr(a, key).height) == (getattr(b, key).width, getattr(b, key).height)
