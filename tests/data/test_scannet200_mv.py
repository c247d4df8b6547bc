import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from clipfeat.camera.projection import build_uv_index, world_to_cam
from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.base import read_scenes_file
from clipfeat.data.config import ScanNet200MvConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.scannet200_mv import ESAM_INTRINSICS, ScanNet200MvDataset
from clipfeat.errors import ConfigError, DataError, FrameError

SCENE = "demo0000_00"
FX, FY, CX, CY = ESAM_INTRINSICS
ESAM_K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])


@pytest.fixture(scope="session")
def written(demo_root, tmp_path_factory):
    """The tree at ESAM's own 640×480, and the pixels that each frame's points were made from."""
    root = tmp_path_factory.mktemp("mv") / "scannet200-mv"
    origin = layouts.write_scannet200_mv(demo_root, root, ESAM_K)
    (root / "meta_data").mkdir()
    (root / "meta_data" / "scannetv2_val.txt").write_text(f"{SCENE}\n")
    return root, origin


@pytest.fixture
def tree(written, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(written[0], tmp_path / "mv"))


def test_scenes_and_frames_are_those_of_2d(written):
    dataset = ScanNet200MvDataset(written[0])
    assert dataset.scenes() == ["demo0000_00", "demo0001_00"]
    assert dataset.frame_ids(SCENE) == [0, 20, 40, 60]
    assert read_scenes_file(written[0] / "meta_data" / "scannetv2_val.txt") == [SCENE]


def test_points_project_back_onto_the_pixels_they_came_from(written):
    root, origin = written
    dataset = ScanNet200MvDataset(root)
    for (scene, frame_id), pixels in origin.items():
        frame = dataset.load(scene, frame_id)
        camera = frame.color_camera
        assert (camera.width, camera.height) == (640, 480)
        assert frame.points.shape == (500, 3)
        assert frame.points.dtype == np.float64
        v, u = np.divmod(pixels, 640)
        seen = build_uv_index(frame.points, camera.intrinsics, world_to_cam(frame.cam_to_world), (640, 480))
        assert np.abs(seen.uv - np.stack((u, v), 1)).max() < 0.01
        np.testing.assert_allclose(seen.depth_m, frame.depth_m[v, u], atol=1e-5)


def test_another_k_moves_the_points_and_the_check_sees_it(tree, written):
    np.savetxt(tree / "k.txt", [[FX, 0, CX + 0.6], [0, FY, CY + 3.2], [0, 0, 1]])
    frame = ScanNet200MvDataset(tree, "k.txt").load(SCENE, 0)
    v, u = np.divmod(written[1][SCENE, 0], 640)
    seen = build_uv_index(frame.points, frame.color_camera.intrinsics, world_to_cam(frame.cam_to_world))
    np.testing.assert_allclose(seen.uv - np.stack((u, v), 1), [[0.6, 3.2]] * 500, atol=0.01)


def test_attributes_go_with_the_points(written):
    root, origin = written
    frame = ScanNet200MvDataset(root).load(SCENE, 40)
    pixels = origin[SCENE, 40]
    attributes = frame.point_attributes
    assert {name: (a.shape, a.dtype) for name, a in attributes.items()} == {
        "rgb": ((500, 3), np.uint8),
        "instance": ((500,), np.int64),
        "semantic": ((500,), np.int64),
        "superpoint": ((500,), np.int64),
    }
    np.testing.assert_array_equal(attributes["superpoint"], pixels // 100)
    # The colours are those of the picture before it was stored as JPEG.
    assert np.median(np.abs(attributes["rgb"].astype(int) - frame.image.reshape(-1, 3)[pixels])) <= 3
    assert attributes["instance"].max() > 0


def test_frames_without_points_and_points_without_labels(tree):
    frame = ScanNet200MvDataset(tree).load(SCENE, 20)
    assert frame.points is None
    assert frame.point_attributes is None
    assert frame.depth_m is not None
    for folder in ("instance_mask", "semantic_mask", "super_points"):
        shutil.rmtree(tree / folder)
    assert set(ScanNet200MvDataset(tree).load(SCENE, 0).point_attributes) == {"rgb"}
    shutil.rmtree(tree / "points")
    assert ScanNet200MvDataset(tree).load(SCENE, 0).points is None


def test_a_k_file_a_scene_in_its_own_resolution(tree):
    expected = ScanNet200MvDataset(tree).load(SCENE, 0).color_camera.resized(1280, 960).intrinsics
    (tree / "intrinsics").mkdir()
    four = np.eye(4)
    four[:3, :3] = expected
    np.savetxt(tree / "intrinsics" / f"{SCENE}.txt", four)
    dataset = ScanNet200MvDataset(tree, "intrinsics/{scene}.txt", (1280, 960))
    np.testing.assert_allclose(dataset.load(SCENE, 0).color_camera.intrinsics, ESAM_K, atol=1e-9)
    np.testing.assert_allclose(dataset.load(SCENE, 0).depth_camera.intrinsics, ESAM_K, atol=1e-9)
    with pytest.raises(DataError, match="demo0001_00.txt: no such file, a 3×3 or 4×4 camera matrix"):
        dataset.load("demo0001_00", 0)
    with pytest.raises(DataError, match=r"principal point .* lies outside the 640×480 picture"):
        ScanNet200MvDataset(tree, "intrinsics/{scene}.txt").load(SCENE, 0)


def test_esam_s_k_is_resized_with_the_pictures(tree):
    for kind, suffix in (("color", "jpg"), ("depth", "png")):
        path = tree / "2D" / SCENE / kind / f"0.{suffix}"
        Image.open(path).resize((320, 240), Image.Resampling.NEAREST).save(path)
    camera = ScanNet200MvDataset(tree).load(SCENE, 0).color_camera
    np.testing.assert_allclose(camera.intrinsics[0], [FX / 2, 0, 159.5])


POINTS = np.zeros((500, 6), np.float32)
NAN_POINTS = np.where(np.arange(500)[:, None] == 7, np.nan, POINTS).astype(np.float32)


@pytest.mark.parametrize(
    ("folder", "data", "message"),
    [
        ("points", b"", r"points/.*0.bin: is empty, expected 24 bytes a point \(x, y, z, r, g, b\)"),
        ("points", POINTS.tobytes()[:-4], r"points/.*0.bin: 11996 bytes are no multiple of 24 .*cut off"),
        ("points", NAN_POINTS.tobytes(), r"points/.*0.bin: 1 of 500 points hold inf or NaN"),
        ("points", (POINTS + 256).tobytes(), r"points/.*0.bin: colours from 256 to 256, expected 0 to 255"),
        ("points", POINTS[:499].tobytes(), r"instance_mask/.*0.bin: 500 labels for 499 points"),
        ("instance_mask", np.zeros(499, np.int64).tobytes(), "instance_mask/.*0.bin: 499 labels for 500 points"),
        ("semantic_mask", np.zeros(500, np.int32).tobytes(), "semantic_mask/.*0.bin: 250 labels for 500 points"),
        ("super_points", np.zeros(501, np.int32).tobytes(), "super_points/.*0.bin: 2004 bytes are no multiple of 8"),
        ("super_points", b"", "super_points/.*0.bin: is empty, expected 8 bytes a point"),
    ],
)
def test_bad_bin_files_fail_their_frame_alone(tree, folder, data, message):
    (tree / folder / SCENE / "0.bin").write_bytes(data)
    dataset = ScanNet200MvDataset(tree)
    with pytest.raises(FrameError, match=message):
        dataset.load(SCENE, 0)
    assert dataset.load(SCENE, 40).points is not None


def test_another_folder_is_refused(demo_root, tmp_path):
    with pytest.raises(DataError, match="has no folder 2D, expected ESAM's scannet200-mv tree"):
        ScanNet200MvDataset(demo_root)
    (tmp_path / "2D").mkdir()
    with pytest.raises(DataError, match="holds no 2D/{scene}/color/{frame}.jpg"):
        ScanNet200MvDataset(tmp_path).scenes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intrinsics": None}, "data.intrinsics is not set, and the tree holds no K: expected esam, or a pattern"),
        ({"intrinsics": "esma"}, "data.intrinsics=esma: expected esam, or a pattern such as 'intrinsics/{scene}.txt'"),
        ({"intrinsics": "../{scene}.txt"}, "'..' leaves data.root"),
        ({"intrinsics": "{scene}/{frame}.txt"}, "{frame} has no meaning here"),
        ({"intrinsics_size": [640, 480]}, "data.intrinsics_size is set, but the K of data.intrinsics=esam belongs to"),
        ({"intrinsics": "k.txt", "intrinsics_size": [640, 0]}, r"data.intrinsics_size=\[640, 0\]: expected"),
        ({"depth_scale": 0}, "data.depth_scale=0"),
    ],
)
def test_a_bad_configuration_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ScanNet200MvConfig(root="x", **({"intrinsics": "esam"} | changes))


def compose_data(*overrides):
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("extract", list(overrides)))


def test_camera_esam_sets_the_data_s_k_and_leaves_the_limits(written):
    plain = compose_data("data=scannet200_mv", "data.root=x")
    esam = compose_data("data=scannet200_mv", f"data.root={written[0]}", "camera=esam", "camera.far=5")
    assert plain.data.intrinsics == esam.data.intrinsics == "esam"
    assert (esam.camera.far, esam.camera.near) == (5, plain.camera.near)
    np.testing.assert_array_equal(build_dataset(esam.data).load(SCENE, 0).color_camera.intrinsics, ESAM_K)
    own = compose_data("data=scannet200_mv", "data.root=x", "data.intrinsics='k/{scene}.txt'")
    assert own.data.intrinsics == "k/{scene}.txt"


def test_through_the_extraction(written, run_cli, tmp_path):
    root = written[0]
    scenes = f"scenes_file={root / 'meta_data' / 'scannetv2_val.txt'}"
    code, err = run_cli("data=scannet200_mv", "camera=esam", f"data.root={root}", scenes, "output_dir=out")
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "out").glob("demo*")) == [SCENE]


@pytest.mark.parametrize("layout", ["scannet", "tum"])
def test_camera_esam_with_another_data_set_says_what_is_wrong(layout, run_cli):
    code, err = run_cli(f"data={layout}", "camera=esam", "data.root=x")
    assert code == 1
    assert "camera=esam sets data.intrinsics, which the chosen data has not, or has of another type" in err
