import numpy as np
import pytest
from PIL import Image

from clipfeat.camera.distortion import carried_pixels
from clipfeat.data.config import PosedRgbdConfig
from clipfeat.data.matrices import pinhole
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.two_cameras import color_from_depth_matrix, seen_from_color
from clipfeat.errors import ConfigError
from clipfeat.types import Camera, Distortion

DEPTH = Camera(pinhole(146, 146, 79.5, 59.5), 160, 120)
COLOR = Camera(pinhole(263, 263, 159.5, 119.5), 320, 240)


def tilted_plane():
    """z of the plane z = 2 + 0.3·x, in metres, as the depth camera sees it."""
    u = np.arange(160)
    x_over_z = (u - 79.5) / 146
    return np.tile((2 / (1 - 0.3 * x_over_z)).astype(np.float32), (120, 1))


def test_a_translation_or_a_whole_matrix_says_where_colour_is():
    assert color_from_depth_matrix(None) is None
    moved = color_from_depth_matrix([-0.025, 0, 0])
    np.testing.assert_array_equal(moved[:3, 3], [-0.025, 0, 0])
    np.testing.assert_array_equal(color_from_depth_matrix(moved.tolist()), moved)
    np.testing.assert_array_equal(color_from_depth_matrix(moved.reshape(-1).tolist()), moved)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1, 2], r"data.color_from_depth=\[1, 2\]: expected 3 numbers"),
        ([0, 0, "x"], "expected 3 numbers"),
        ([0, 0, float("nan")], "expected 3 numbers"),
        ([25, 0, 0], "expected metres"),
        ((np.eye(4) * 2).reshape(-1).tolist(), "no rotation"),
    ],
)
def test_what_is_no_transform_is_named(numbers, message):
    with pytest.raises(ConfigError, match=message):
        color_from_depth_matrix(numbers)


def test_depth_is_where_the_colour_camera_sees_it():
    transform = color_from_depth_matrix([-0.1, 0, 0])
    registered, camera = seen_from_color(tilted_plane(), DEPTH, COLOR, transform)
    assert registered.shape == (120, 160)
    np.testing.assert_allclose(camera.intrinsics, COLOR.resized(160, 120).intrinsics)
    v, u = np.nonzero(registered)
    x = (u - camera.intrinsics[0, 2]) / camera.intrinsics[0, 0] * registered[v, u]
    # In the colour camera's axes the plane is z = 2 + 0.3·(x + 0.1); half a pixel is 4 mm of it.
    assert np.abs(registered[v, u] - (2 + 0.3 * (x + 0.1))).max() < 0.004
    assert (registered[8:112, 20:140] > 0).mean() > 0.95  # colour sees more above and below


def test_the_nearer_of_two_surfaces_hides_the_other():
    depth = np.full((120, 160), 4, np.float32)
    depth[:, 60:100] = 1
    registered, _ = seen_from_color(depth, DEPTH, COLOR, color_from_depth_matrix([-0.1, 0, 0]))
    near = np.flatnonzero(registered[60] == 1)
    # 60 and 99 are 13.1 pixels further left for a surface at a metre, and 0.9 of the pixels' size.
    assert (near.min(), near.max()) == (49, 84)


@pytest.mark.parametrize("pose_camera", ["depth", "color"])
def test_a_point_of_depth_falls_on_its_own_pixel_of_colour(tmp_path, pose_camera):
    scene = tmp_path / "s0"
    scene.mkdir()
    Image.new("RGB", (320, 240)).save(scene / "0.jpg")
    raw = np.zeros((120, 160), np.uint16)
    raw[60, 100] = 1500
    Image.fromarray(raw).save(scene / "0.png")
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    np.savetxt(scene / "0.txt", pose)
    transform = color_from_depth_matrix([-0.025, 0, 0])
    frame = PosedRgbdDataset(
        PosedRgbdConfig(
            root=str(tmp_path), color="{scene}/{frame}.jpg", depth="{scene}/{frame}.png", pose="{scene}/{frame}.txt",
            pose_format="matrix_per_frame", pose_direction="camera_to_world", pose_axes="opencv",
            intrinsics=[263, 263, 159.5, 119.5], depth_intrinsics=[146, 146, 79.5, 59.5],
            color_from_depth=[-0.025, 0, 0], pose_camera=pose_camera,
        )
    ).load("s0", 0)  # fmt: skip
    seen = np.array([(100 - 79.5) / 146, (60 - 59.5) / 146, 1]) * 1.5  # in the depth camera
    depth_to_world = pose if pose_camera == "depth" else pose @ transform
    world = depth_to_world @ np.append(seen, 1)
    ((v, u),) = np.argwhere(frame.depth_m)
    k = frame.depth_camera.intrinsics
    ours = frame.cam_to_world @ [*(np.linalg.inv(k) @ [u, v, 1] * frame.depth_m[v, u]), 1]
    assert np.abs(ours - world).max() < 0.5 * 1.5 / k[0, 0] + 1e-6
    in_color = np.linalg.inv(frame.cam_to_world) @ world
    uv = (frame.color_camera.intrinsics @ in_color[:3])[:2] / in_color[2]
    np.testing.assert_allclose(uv, [159.5 + 263 * (seen[0] - 0.025) / 1.5, 119.5 + 263 * seen[1] / 1.5])


@pytest.mark.parametrize("lens", [Distortion(radial=(-0.2, 0.04, 0, 0), tangential=(1e-3, 2e-3)), Distortion(True)])
def test_both_cameras_may_have_a_lens(lens):
    """Of one lens each pixel is its own; a pinhole shows the wall where the rays through the lens meet it."""
    wall = np.full((120, 160), 2, np.float32)
    depth, same = (Camera(pinhole(146, 146, 79.5, 59.5), 160, 120, lens) for _ in range(2))
    np.testing.assert_array_equal(seen_from_color(wall, depth, same, np.eye(4))[0], wall)
    seen, camera = seen_from_color(wall, depth, COLOR, np.eye(4))
    assert camera.distortion is None
    rays = np.stack(np.meshgrid(np.arange(160), np.arange(120)), -1)
    u, v = np.rint(carried_pixels(rays, depth, camera)).astype(int).reshape(-1, 2).T
    inside = (u >= 0) & (u < 160) & (v >= 0) & (v < 120)
    expected = np.zeros_like(wall)
    expected[v[inside], u[inside]] = 2
    np.testing.assert_array_equal(seen, expected)
