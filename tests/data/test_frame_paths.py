import numpy as np
import pytest
from PIL import Image

from clipfeat.data.base import MaskedDataset
from clipfeat.data.config import PosedRgbdConfig, ScanNetConfig
from clipfeat.data.frame_paths import FramePaths, frame_paths
from clipfeat.data.posed_rgbd import PosedRgbdDataset
from clipfeat.data.scannet import open_scannet
from clipfeat.errors import DataError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("spelt", ["20", "0020", "000020"])
def test_a_frame_may_be_padded_or_not(tmp_path, spelt):
    there = touch(tmp_path / f"s0/{spelt}.png")
    assert FramePaths(f"{tmp_path}/{{scene}}/{{frame}}.png")("s0", 20) == there
    assert FramePaths(f"{tmp_path}/{{scene}}/{{frame}}.png")("s0", 2) == tmp_path / "s0/2.png"


def test_a_relative_path_begins_where_the_command_was_given_or_in_the_root(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    paths = FramePaths("{scene}/{frame}.png", tmp_path / "root")
    assert str(paths("s0", 1)) == "s0/1.png"
    in_root = touch(tmp_path / "root/s0/1.png")
    assert paths("s0", 1) == in_root
    touch(tmp_path / "here/s0/1.png")
    assert str(paths("s0", 1)) == "s0/1.png"


@pytest.fixture
def sequences(tmp_path):
    """7-Scenes' names, with a mask of 8 bits beside each."""
    folder = tmp_path / "root/chess/seq-01"
    (folder / "masks").mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(folder / "frame-000020.color.png")
    np.savetxt(folder / "frame-000020.pose.txt", np.eye(4))
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16)).save(folder / "masks/000020.png")
    return tmp_path / "root"


def test_masks_of_8_bits_with_a_sequence_in_their_path(sequences):
    names = "{scene}/{sequence}/frame-{frame}"
    dataset = PosedRgbdDataset(
        PosedRgbdConfig(
            root=str(sequences), color=f"{names}.color.png", pose=f"{names}.pose.txt", pose_format="matrix_per_frame",
            pose_direction="camera_to_world", pose_axes="opencv", intrinsics=[15, 15, 7.5, 5.5],
        )
    )  # fmt: skip
    pattern = "{scene}/{sequence}/masks/{frame}.png"
    frame = MaskedDataset(dataset, pattern, str(sequences)).load("chess-seq-01", 20)
    assert frame.mask.dtype == np.uint16
    np.testing.assert_array_equal(frame.mask, np.arange(192).reshape(12, 16))
    assert dataset.names_of("chess-seq-01", 20) == {"scene": "chess", "sequence": "seq-01", "frame": "000020"}
    whole = frame_paths("m/{scene}/{frame}.png", dataset, None)("chess-seq-01", 20)
    assert str(whole) == "m/chess-seq-01/20.png"  # without {sequence}, a scene is its id


def test_a_root_one_level_off_is_told_what_it_is(tmp_path):
    for name in ("a", "b", "c"):
        touch(tmp_path / f"scans/{name}/color/0.jpg")
    with pytest.raises(DataError, match=r"holds no scene, .*; .*/scans holds 3 scenes"):
        open_scannet(ScanNetConfig(root=str(tmp_path))).scenes()
    with pytest.raises(DataError, match=r"; this is a scene itself, say data.root=.*/scans and give the scene"):
        open_scannet(ScanNetConfig(root=str(tmp_path / "scans/a"))).scenes()
    with pytest.raises(DataError, match=r"; this is a part of a scene, say data.root=.*/scans$"):
        open_scannet(ScanNetConfig(root=str(tmp_path / "scans/a/color"))).scenes()
