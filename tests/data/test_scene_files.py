"""What lies in a scene's folder beside, and in place of, what most scenes have."""

import numpy as np
import pytest
from PIL import Image

from clipfeat.data.config import ScanNetConfig
from clipfeat.data.matrices import camera_for, pinhole
from clipfeat.data.scannet import open_scannet
from clipfeat.errors import DataError, FrameError

K = pinhole(300, 300, 159.5, 119.5)
"""Of 320×240 pixels."""


def write_scene(root, name="s0", recorded=(320, 240), stored=(160, 120), frame="0"):
    """A scene whose K files belong to another resolution than its pictures."""
    scene = root / name
    for folder in ("color", "depth", "pose", "intrinsic"):
        (scene / folder).mkdir(parents=True)
    Image.new("RGB", stored).save(scene / f"color/{frame}.jpg")
    Image.fromarray(np.full((60, 80), 1500, np.uint16)).save(scene / f"depth/{frame}.png")
    np.savetxt(scene / f"pose/{frame}.txt", np.eye(4))
    scale = recorded[0] / 320
    np.savetxt(
        scene / "intrinsic/intrinsic_color.txt", pinhole(300 * scale, 300 * scale, *(recorded[0] / 2, recorded[1] / 2))
    )
    np.savetxt(scene / "intrinsic/intrinsic_depth.txt", pinhole(75, 75, 39.5, 29.5))
    return scene


def scannet(root, **changes):
    return open_scannet(ScanNetConfig(root=str(root), **changes))


@pytest.mark.parametrize("second", ["00.jpg", "0.png"])
def test_two_pictures_of_one_number_are_refused(tmp_path, second):
    scene = write_scene(tmp_path)
    Image.new("RGB", (160, 120)).save(scene / "color" / second)
    with pytest.raises(DataError, match="are both frame 0; remove one of them"):
        scannet(tmp_path).frame_ids("s0")


def test_two_depths_of_one_number_are_refused(tmp_path):
    scene = write_scene(tmp_path, stored=(320, 240), frame="000020")
    frame = scannet(tmp_path).load("s0", 20)  # padded, as in ScanNet's own 25k set
    assert frame.depth_m is not None
    (scene / "depth/20.png").write_bytes((scene / "depth/000020.png").read_bytes())
    with pytest.raises(FrameError, match="000020.png and 20.png are both frame 20; remove one of them"):
        scannet(tmp_path).load("s0", 20)
    (scene / "depth/000020.png").unlink()
    assert scannet(tmp_path).load("s0", 20).depth_m is not None


def test_each_scene_may_say_its_own_resolution(tmp_path):
    for name, recorded in (("s0", (1296, 972)), ("s1", (640, 480))):
        scene = write_scene(tmp_path, name, recorded)
        (scene / f"{name}.txt").write_text(
            f"axisAlignment = 1 0 0 0\ncolorHeight = {recorded[1]}\ncolorWidth = {recorded[0]}\n"
        )
    for changes in ({}, {"color_intrinsics_size": [1296, 972]}):
        cameras = [scannet(tmp_path, **changes).load(name, 0).color_camera for name in ("s0", "s1")]
        for camera in cameras:
            np.testing.assert_allclose(camera.intrinsics[:2], pinhole(150, 150, 79.5, 59.5)[:2], atol=0.6)


def test_one_resolution_for_all_is_refused_where_a_scene_has_another(tmp_path):
    write_scene(tmp_path, "s0", (1296, 972))
    write_scene(tmp_path, "s1", (640, 480))
    dataset = scannet(tmp_path, color_intrinsics_size=[1296, 972])
    dataset.load("s0", 0)
    with pytest.raises(
        DataError, match=r"\(320, 240\) is far from the middle of 1296×972 pixels, as if K belonged to some"
    ):
        dataset.load("s1", 0)
    with pytest.raises(
        DataError, match=r"lies outside the 160×120 picture; if K belongs to another resolution, say so by"
    ):
        scannet(tmp_path).load("s1", 0)
    camera_for(pinhole(300, 300, 100, 119.5), (320, 240), (160, 120), "a K of a picture that was cut", None)


def test_a_resolution_that_is_none_is_named(tmp_path):
    scene = write_scene(tmp_path, recorded=(640, 480))
    (scene / "s0.txt").write_text("colorWidth = 640\ncolorHeight = many\n")
    with pytest.raises(DataError, match="s0.txt: colorheight: could not convert string to float: 'many'"):
        scannet(tmp_path).load("s0", 0)


def test_a_number_that_no_format_holds_is_refused_before_anything_runs(tmp_path):
    write_scene(tmp_path, frame="20240501102231012345")
    with pytest.raises(
        DataError, match="12345.jpg: a frame's number has 18 digits at most, this has 20; rename the files"
    ):
        scannet(tmp_path).frame_ids("s0")
