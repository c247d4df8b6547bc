import numpy as np
import pytest
from PIL import Image

from clipfeat.data.config import PosedRgbdConfig, ScanNetConfig
from clipfeat.data.images import read_picture
from clipfeat.data.matrices import camera_for, pinhole
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.scannet import open_scannet
from clipfeat.errors import ConfigError, DataError

UPRIGHT = (36, 48)
"""(width, height) of the pictures that K, depth and poses are of."""


@pytest.fixture
def upright():
    """Smooth, so that a JPEG keeps it nearly."""
    v, u = np.mgrid[:48, :36]
    return np.stack((u * 5, v * 4, u + v), -1).astype(np.uint8)


def write_scene(root, pixels, orientation=None, depth=(18, 24), k=(40, 40, 17.5, 23.5)):
    """ScanNet's layout; EXIF only where an orientation is given."""
    scene = root / "s0"
    for folder in ("color", "depth", "pose", "intrinsic"):
        (scene / folder).mkdir(parents=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(scene / "color/0.jpg", quality=98, subsampling=0, exif=exif)
    if depth is not None:
        Image.fromarray(np.full(depth[::-1], 1500, np.uint16)).save(scene / "depth/0.png")
    np.savetxt(scene / "pose/0.txt", np.eye(4))
    np.savetxt(scene / "intrinsic/intrinsic_color.txt", pinhole(*k))
    np.savetxt(scene / "intrinsic/intrinsic_depth.txt", pinhole(20, 20, 8.5, 11.5))
    return root


def posed(root, **changes):
    return PosedRgbdDataset(
        PosedRgbdConfig(
            root=str(root), color="{scene}/color/{frame}.jpg", depth="{scene}/depth/{frame}.png",
            pose="{scene}/pose/{frame}.txt", pose_format="matrix_per_frame", pose_direction="camera_to_world",
            pose_axes="opencv", intrinsics_file="{scene}/intrinsic/intrinsic_color.txt", **changes,
        )
    )  # fmt: skip


def scannet(root, **changes):
    return open_scannet(ScanNetConfig(root=str(root), **changes))


@pytest.mark.parametrize("open_root", [posed, scannet])
@pytest.mark.parametrize(("orientation", "turns", "degrees"), [(6, 1, 90), (8, -1, 270)])
def test_a_lying_picture_with_upright_depth_is_refused_and_turned_when_it_is_said(
    tmp_path, upright, open_root, orientation, turns, degrees
):
    root = write_scene(tmp_path, np.rot90(upright, turns), orientation)
    with pytest.raises(
        DataError, match=r"0.jpg: colour of 48×36 pixels, but depth of 18×24: one of them lies"
    ) as caught:
        open_root(root).load("s0", 0)
    assert f"its EXIF orientation {orientation} says it is to be turned by {degrees}°" in str(caught.value)
    assert f"say data.rotate={degrees}; if they are of the picture as it is stored, " in str(caught.value)
    frame = open_root(root, rotate=degrees).load("s0", 0)
    assert (frame.picture.width, frame.picture.height) == UPRIGHT
    assert np.abs(frame.image.astype(int) - upright).max() < 12
    assert frame.picture.digest != read_picture(root / "s0/color/0.jpg").digest


def test_without_a_note_both_directions_are_named(tmp_path, upright):
    root = write_scene(tmp_path, np.rot90(upright))
    with pytest.raises(
        DataError, match=r"say data.rotate=90 or data.rotate=270; if they are .* stored, turn the depth"
    ):
        posed(root).load("s0", 0)


def test_k_of_an_upright_picture_is_refused_for_a_lying_one(tmp_path, upright):
    root = write_scene(tmp_path, np.rot90(upright), depth=None)
    with pytest.raises(DataError, match=r"principal point \(17.5, 23.5\) is the middle of a picture of 36×48 pixels"):
        posed(root).load("s0", 0)
    assert posed(root, rotate=0).load("s0", 0).picture.width == 48
    with pytest.raises(
        DataError, match=r"K belongs to 72×96 pixels, but the picture has 48×36: one of them lies on its"
    ):
        camera_for(pinhole(80, 80, 35.5, 47.5), (72, 96), (48, 36), "K.txt", "data.intrinsics_size")


def test_what_fits_is_taken_as_it_is_stored_and_told_once(tmp_path, upright, caplog):
    root = write_scene(tmp_path, upright, orientation=3)
    dataset = posed(root)
    for _ in range(2):
        assert (dataset.load("s0", 0).picture.width, dataset.load("s0", 0).picture.height) == UPRIGHT
    assert [record.getMessage().split("0.jpg: ")[1][:27] for record in caplog.records] == [
        "is taken as it is stored, a"
    ]
    caplog.clear()
    turned = posed(root, rotate=180).load("s0", 0)
    assert np.abs(turned.image[::-1, ::-1].astype(int) - upright).max() < 12
    posed(root, rotate=0).load("s0", 0)
    assert not caplog.records


def test_pictures_turn_by_quarters():
    with pytest.raises(ConfigError, match="data.rotate=45: expected 0, 90, 180 or 270 degrees clockwise, or null"):
        ScanNetConfig(root="x", rotate=45)
