"""What packages make of a recording that people of its data set read it with; skipped where they are missing."""

import numpy as np
import pytest
from conftest import SHARED
from test_posed_layouts import SCENE, WRITERS, open_layout

from clipfeat.camera.projection import unproject_depth


@pytest.fixture(scope="module")
def tum(demo_root, tmp_path_factory):
    root = tmp_path_factory.mktemp("tum")
    WRITERS["tum"](demo_root, root)
    return root


def test_tum_s_poses_are_those_that_evo_reads(tum):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    trajectory = file_interface.read_tum_trajectory_file(str(tum / SCENE / "groundtruth.txt"))
    dataset = open_layout("tum", tum)
    pictures = (line.split() for line in (tum / SCENE / "rgb.txt").read_text().splitlines() if line[:1] != "#")
    stamps = [float(stamp) for stamp, _ in pictures]
    for number in dataset.frame_ids(SCENE):
        nearest = int(np.abs(trajectory.timestamps - stamps[number]).argmin())
        pose = dataset.load(SCENE, number).cam_to_world
        np.testing.assert_allclose(pose, trajectory.poses_se3[nearest], atol=1e-8)


@pytest.fixture(scope="module")
def real():
    if not SHARED.is_dir():
        pytest.skip("the real recordings are not here")
    return SHARED / "open3d_rgbd"


def test_a_log_s_poses_are_those_that_open3d_reads(real):
    """Which keeps their inverses."""
    o3d = pytest.importorskip("open3d")
    read = o3d.io.read_pinhole_camera_trajectory(str(real / "trajectory.log")).parameters
    dataset = open_layout("open3d", real)
    [scene] = dataset.scenes()
    numbers = dataset.frame_ids(scene)
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        pose = dataset.load(scene, number).cam_to_world
        np.testing.assert_allclose(np.linalg.inv(pose), read[number].extrinsic, atol=1e-9)


def test_points_are_those_that_open3d_lifts(real):
    """In float32, of the same depth by the same K: its pixels' centres lie on integers, too."""
    o3d = pytest.importorskip("open3d")
    dataset = open_layout("open3d", real)
    [scene] = dataset.scenes()
    frame = dataset.load(scene, dataset.frame_ids(scene)[1])
    camera = frame.depth_camera
    k = camera.intrinsics
    pinhole = o3d.camera.PinholeCameraIntrinsic(camera.width, camera.height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    picture = o3d.geometry.Image(np.ascontiguousarray(frame.depth_m, np.float32))
    cloud = o3d.geometry.PointCloud.create_from_depth_image(
        picture, pinhole, np.linalg.inv(frame.cam_to_world), depth_scale=1.0, depth_trunc=100.0
    )
    xyz, _ = unproject_depth(frame.depth_m, k, frame.cam_to_world)
    np.testing.assert_allclose(xyz, np.asarray(cloud.points), atol=1e-5)
