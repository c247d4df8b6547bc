"""Points through lenses that distort, against the formulas written out for one point, and against OpenCV and COLMAP."""

import ast
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from twins import random_pose

from clipfeat.camera.distortion import carried_pixels, lens_array, rays_of, without_blind_pixels
from clipfeat.camera.lens_models import LENSES, distortion_of
from clipfeat.camera.projection import build_uv_index, unproject_depth, world_to_cam
from clipfeat.camera.visibility import VisibilityRule, project_frame
from clipfeat.types import Camera, Distortion, Frame, Picture, PointStatus

K = np.array([[300.0, 0, 158.0], [0, 300, 121.5], [0, 0, 1]])
SIZE = (320, 240)
NUMBERS = {
    "SIMPLE_RADIAL": [-0.2],
    "RADIAL": [-0.31, 0.1],
    "OPENCV": [-0.28, 0.07, 0.001, -0.002],
    "FULL_OPENCV": [0.3, -0.1, 0.0005, -0.0003, 0.02, 0.5, 0.05, 0.01],
    "SIMPLE_RADIAL_FISHEYE": [0.02],
    "RADIAL_FISHEYE": [0.05, -0.01],
    "OPENCV_FISHEYE": [-0.03, 0.005, -0.002, 0.0003],
    "THIN_PRISM_FISHEYE": [0.01, 0.02, 0.0005, -0.0004, -0.01, 0.002, 0.001, -0.0008],
}
"""A lens of each model, as cameras have them."""


def slow_pixel(model, numbers, x, y):
    """Where one ray (x, y, 1) is shown: each model as its makers write it, in Python's own floats."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2 = (0.0,) * 10
    match model:
        case "SIMPLE_RADIAL" | "SIMPLE_RADIAL_FISHEYE":
            (k1,) = numbers
        case "RADIAL" | "RADIAL_FISHEYE":
            k1, k2 = numbers
        case "OPENCV":
            k1, k2, p1, p2 = numbers
        case "FULL_OPENCV":
            k1, k2, p1, p2, k3, k4, k5, k6 = numbers
        case "OPENCV_FISHEYE":
            k1, k2, k3, k4 = numbers
        case "THIN_PRISM_FISHEYE":
            k1, k2, p1, p2, k3, k4, s1, s2 = numbers
    r = math.hypot(x, y)
    if model.endswith("FISHEYE"):
        theta = math.atan(r)
        x, y = x * theta / r, y * theta / r
        share = 1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8
    else:
        share = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    q = x * x + y * y
    u = x * share + 2 * p1 * x * y + p2 * (q + 2 * x * x) + s1 * q
    v = y * share + p1 * (q + 2 * y * y) + 2 * p2 * x * y + s2 * q
    return K[0, 0] * u + K[0, 2], K[1, 1] * v + K[1, 2]


def frame_of(depth_m, color_lens=None, depth_lens=None, pose=None):
    """A frame whose depth has another size and, perhaps, another lens."""
    color = Camera(K, *SIZE, color_lens)
    depth = dataclasses.replace(Camera(K, *SIZE).resized(*depth_m.shape[::-1]), distortion=depth_lens)
    picture = Picture.of(np.zeros((*SIZE[::-1], 3), np.uint8))
    return Frame("s", 0, picture, depth_m.astype(np.float32), color, depth, np.eye(4) if pose is None else pose)


@pytest.mark.parametrize("model", NUMBERS)
def test_each_model_equals_its_slow_twin_and_pixels_come_back(model):
    rng = np.random.default_rng(0)
    lens = distortion_of(model, NUMBERS[model])
    points = np.c_[rng.uniform(-0.6, 0.6, (300, 2)), np.ones(300)] * rng.uniform(0.5, 5, (300, 1))
    pose = random_pose(rng)
    world = points @ pose[:3, :3].T + pose[:3, 3]
    found = build_uv_index(world, K, world_to_cam(pose), distortion=lens)
    expected = np.array([slow_pixel(model, NUMBERS[model], x / z, y / z) for x, y, z in points])
    np.testing.assert_allclose(found.uv, expected, atol=1e-4)  # uv is float32
    rays = rays_of(expected, K, lens)
    assert np.abs(rays - points[:, :2] / points[:, 2:]).max() * K[0, 0] < 1e-6
    in_torch = build_uv_index(torch.from_numpy(world), K, world_to_cam(pose), distortion=lens)
    np.testing.assert_array_equal(in_torch.uv.numpy(), found.uv)


@pytest.mark.parametrize("model", NUMBERS)
def test_each_model_equals_colmap_s(model):
    pycolmap = pytest.importorskip("pycolmap")
    order = [300.0, *K[:2, 2]] if model.startswith(("SIMPLE", "RADIAL")) else [300.0, 300.0, *K[:2, 2]]
    camera = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=[*order, *NUMBERS[model]])
    points = np.c_[np.random.default_rng(1).uniform(-0.6, 0.6, (50, 2)), np.ones(50)]
    expected = np.array([camera.img_from_cam(point) for point in points]).reshape(-1, 2)
    found = build_uv_index(points, K, np.eye(4), distortion=distortion_of(model, NUMBERS[model]))
    np.testing.assert_allclose(found.uv, expected, atol=1e-4)


@pytest.mark.parametrize("model", ["OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"])
def test_opencv_s_own(model):
    cv2 = pytest.importorskip("cv2")
    points = np.c_[np.random.default_rng(2).uniform(-0.6, 0.6, (50, 2)), np.ones(50)]
    project = cv2.fisheye.projectPoints if "FISHEYE" in model else cv2.projectPoints
    numbers = np.array(NUMBERS[model])
    if "FISHEYE" in model:
        expected, _ = project(points[:, None], np.zeros(3), np.zeros(3), K, numbers)
    else:
        expected, _ = project(points, np.zeros(3), np.zeros(3), K, numbers)
    found = build_uv_index(points, K, np.eye(4), distortion=distortion_of(model, NUMBERS[model]))
    np.testing.assert_allclose(found.uv, expected.reshape(-1, 2), atol=1e-4)


@pytest.mark.parametrize(
    ("lens", "limit"),
    [
        (Distortion(radial=(-0.4, 0, 0, 0)), 1 / math.sqrt(1.2)),
        (Distortion(True, radial=(-0.2, 0, 0, 0)), 1 / math.sqrt(0.6)),
        (Distortion(True), math.pi / 2),
        (Distortion(tangential=(0, -0.05)), 1 / 0.3),
    ],
)
def test_points_that_would_fold_back_are_out_of_the_picture(lens, limit):
    """1 - 3·0.4·r² = 0: from there on points come back to the middle. Of p2 alone, x + 3·p2·x² does."""
    assert lens_array(lens)[-1] == pytest.approx(limit, rel=1e-9)
    steps = np.linspace(0, 1.5, 400) if lens.fisheye else np.arctan(np.linspace(0, 10, 2000))
    points = np.c_[np.sin(steps), np.zeros(len(steps)), np.cos(steps)]
    found = build_uv_index(points, K, np.eye(4), SIZE, distortion=lens)
    inside = (steps if lens.fisheye else np.tan(steps)) <= limit
    assert np.isfinite(found.uv[:, 0]).tolist() == inside.tolist()
    assert (found.status[~inside] == PointStatus.OUT_OF_VIEW).all()
    assert (np.diff(found.uv[inside, 0]) > 0).all()
    frame = dataclasses.replace(frame_of(np.ones((24, 32)), lens, lens), depth_m=None, depth_camera=None)
    seen = project_frame(points, frame, VisibilityRule(near=0, zbuffer=False))
    np.testing.assert_array_equal(seen.status, found.status)
    np.testing.assert_array_equal(seen.uv, found.uv)


def test_pixels_that_no_ray_leads_to_are_holes():
    """r - r³ is 0.385 at most: beyond 115 pixels from the middle there is nothing."""
    lens, (v, u) = Distortion(radial=(-1.0, 0, 0, 0)), np.indices(SIZE[::-1])
    shown = np.hypot(u - K[0, 2], v - K[1, 2]) <= 300 * 2 / math.sqrt(27)
    ones = np.ones(SIZE[::-1], np.float32)
    depth_m = without_blind_pixels(ones, Camera(K, *SIZE, lens))
    assert (depth_m > 0).tolist() == shown.tolist()
    points, pixels = unproject_depth(ones, K, np.eye(4), distortion=lens)
    assert pixels.tolist() == np.flatnonzero(shown).tolist()
    assert np.isfinite(points).all()
    assert without_blind_pixels(ones, Camera(K, *SIZE, Distortion(radial=(0.1, 0, 0, 0)))) is ones


@pytest.mark.parametrize("color", [None, "OPENCV", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("depth", [None, "RADIAL"])
def test_measured_points_are_seen_on_their_own_pixels_through_one_lens_or_two(color, depth):
    lens, other = (name and distortion_of(name, NUMBERS[name]) for name in (color, depth))
    rng = np.random.default_rng(3)
    depth_m = rng.uniform(1, 3, (24, 32)).astype(np.float32)
    depth_m[rng.random(depth_m.shape) < 0.1] = 0
    frame = frame_of(depth_m, lens, other, random_pose(rng))
    camera = frame.depth_camera
    points, pixels = unproject_depth(depth_m, camera.intrinsics, frame.cam_to_world, distortion=other)
    seen = project_frame(points, frame)
    view = seen.status != PointStatus.OUT_OF_VIEW  # the corners of one lens are not those of the other
    assert seen.visible[view].all()
    assert view.mean() > 0.7
    assert seen.conf_2d[view].min() > 0.999
    expected = carried_pixels(np.stack(np.divmod(pixels, 32)[::-1], 1), camera, frame.color_camera)
    assert np.abs(seen.uv - expected)[view].max() < 1e-3
    behind = project_frame(points + frame.cam_to_world[:3, 2], frame)
    assert set(behind.status.tolist()) & {PointStatus.OCCLUDED, PointStatus.NO_DEPTH}
    for keep, status in ((False, PointStatus.NO_DEPTH), (True, PointStatus.VISIBLE)):
        empty = dataclasses.replace(frame, depth_m=np.zeros_like(depth_m))
        found = project_frame(points, empty, VisibilityRule(keep_holes=keep))
        assert (found.status[view] == status).all()
        assert found.conf_2d[view] == pytest.approx(math.exp(-4.5) if keep else 0)


def test_a_lens_that_does_nothing_is_a_pinhole():
    assert Camera(K, *SIZE, Distortion()).distortion is None
    assert distortion_of("OPENCV", [0, 0, 0, 0]) is None
    fisheye = Camera(K, *SIZE, distortion_of("opencv_fisheye", [0, 0, 0, 0]))
    assert fisheye.distortion == Distortion(fisheye=True)
    assert fisheye.resized(160, 120).distortion == fisheye.distortion


def test_what_files_say_of_a_camera_is_that_camera():
    for lens in (None, *(distortion_of(name, numbers) for name, numbers in NUMBERS.items())):
        meta = Camera(K, *SIZE, lens).meta()
        assert Camera.of_meta(meta).meta() == meta
    assert Camera(K, *SIZE).meta() == {"intrinsics": K.tolist(), "width": 320, "height": 240}


def test_wrong_models_and_counts_are_named():
    with pytest.raises(ValueError, match="camera model FOV is not known, expected one of SIMPLE_PINHOLE, PINHOLE, S"):
        distortion_of("FOV", [1])
    with pytest.raises(
        ValueError, match=r"3 numbers of distortion for OPENCV, expected 4 \(k1 k2 p1 p2\) or 5 \(k1 k2"
    ):
        distortion_of("OPENCV", [1, 2, 3])
    with pytest.raises(ValueError, match="1 numbers of distortion for PINHOLE, expected none"):
        distortion_of("PINHOLE", [1])
    assert {*NUMBERS, "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_FISHEYE", "FISHEYE"} == set(LENSES)


def test_nothing_projects_without_asking_for_the_lens():
    """Each call says ``distortion``; only the fusion's maps don't, which refuse such frames when they are read."""
    names = {"build_uv_index", "unproject_depth", "unproject_pixels", "project_camera_points"}
    silent = []
    for path in (CHECKOUT / "clipfeat").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if any(name in text for name in names) else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names:
                told = [*(keyword.value for keyword in node.keywords), *node.args]
                if not any("distortion" in ast.unparse(value) or ast.unparse(value) == "lens" for value in told):
                    silent.append(path.relative_to(CHECKOUT / "clipfeat").as_posix())
    assert silent == ["fusion/inputs.py"]
