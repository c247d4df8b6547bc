"""COLMAP's models, text and binary, on small frames whose truth is known."""

import logging
import struct
from dataclasses import replace

import numpy as np
import pytest
from colmap_writer import model_of, motion_of, write_depth_map, write_model, write_rigs
from PIL import Image
from recordings import small_frames
from twins import random_pose

from clipfeat.data import colmap_files
from clipfeat.data.colmap import ColmapDataset
from clipfeat.data.colmap_files import model_file, read_cameras, read_images, read_points, read_rig_poses
from clipfeat.data.config import ColmapConfig
from clipfeat.data.layouts import build_dataset, layouts
from clipfeat.data.recognize import readings
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.sampling.points import frame_points
from clipfeat.types import Distortion

NAMES = ["cam/im_002.png", "cam/im_010.png", "cam/im_003.png", "cam/im_011.png", "cam/im_020.png"]
NUMBERS = [2, 10, 3, 11, 20]
POINTS = [((1.0, 2, 3), (9, 8, 7), (1, 3)), ((-1, 0, 0.5), (1, 2, 3), (3, 3, 5)), ((4, 4, 4), (0, 0, 0), ())]


def open_root(root, **changes):
    return ColmapDataset(ColmapConfig(root=str(root), **changes))


@pytest.fixture(scope="module")
def frames():
    return small_frames()


@pytest.fixture
def write(frames, tmp_path):
    """Writes a scene, with whatever a test changes in the model before; returns the root."""

    def write_scene(change=None, *, binary=True, folder="sparse/0", names=NAMES, camera=None, depth=True):
        model = model_of(frames, names, camera, POINTS)
        if change is not None:
            change(model)
        write_model(tmp_path / "kitchen" / folder, model, binary=binary)
        for frame, name in zip(frames, names, strict=True):
            path = tmp_path / "kitchen" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame.image).save(path)
            if depth:
                write_depth_map(tmp_path / "kitchen/stereo/depth_maps" / f"{name}.geometric.bin", frame.depth_m)
        return tmp_path

    return write_scene


@pytest.mark.parametrize(("binary", "folder"), [(True, "sparse/0"), (False, "sparse")])
def test_it_gives_the_frames_that_it_was_made_from(write, frames, binary, folder):
    dataset = open_root(write(binary=binary, folder=folder), sparse_points=True)
    assert dataset.scenes() == ["kitchen"]
    assert dataset.frame_ids("kitchen") == sorted(NUMBERS)
    assert dataset.names_of("kitchen", 2) == {"scene": "kitchen", "frame": "002"}
    seen_by = {2: [0], 3: [0, 1], 20: [1], 10: [], 11: []}
    for number, expected in zip(NUMBERS, frames, strict=True):
        frame = dataset.load("kitchen", number)
        np.testing.assert_array_equal(frame.image, expected.image)
        np.testing.assert_array_equal(frame.depth_m, expected.depth_m)
        np.testing.assert_allclose(frame.cam_to_world, expected.cam_to_world, atol=1e-12)
        np.testing.assert_allclose(frame.color_camera.intrinsics, expected.color_camera.intrinsics, atol=1e-12)
        resized = frame.color_camera.resized(*frame.depth_m.shape[::-1])
        np.testing.assert_array_equal(frame.depth_camera.intrinsics, resized.intrinsics)
        assert frame.color_camera.distortion is None
        assert frame.points.tolist() == [list(POINTS[i][0]) for i in seen_by[number]]
        assert frame.point_attributes["rgb"].tolist() == [list(POINTS[i][1]) for i in seen_by[number]]
    points = frame_points(dataset.load("kitchen", 3), None, np.random.default_rng(0))
    assert points.attributes["rgb"].dtype == np.uint8
    assert open_root(dataset.root).load("kitchen", 3).points is None


def test_the_model_has_units_of_its_own(write, frames):
    root = write(depth=False)
    for frame, name in zip(frames, NAMES, strict=True):
        map_path = root / "kitchen/stereo/depth_maps" / f"{name}.geometric.bin"
        write_depth_map(map_path, np.where(frame.depth_m > 0, frame.depth_m, np.nan) / 2.5)
    frame = open_root(root, metres_per_unit=2.5, sparse_points=True).load("kitchen", 3)
    np.testing.assert_allclose(frame.depth_m, frames[2].depth_m, rtol=1e-6)
    np.testing.assert_allclose(frame.cam_to_world[:3, 3], 2.5 * frames[2].cam_to_world[:3, 3])
    np.testing.assert_allclose(frame.cam_to_world[:3, :3], frames[2].cam_to_world[:3, :3], atol=1e-12)
    assert frame.points[0].tolist() == [2.5, 5, 7.5]


def test_depth_by_numbers_and_frames_without(write, frames, caplog):
    root = write(depth=False)
    assert open_root(root).load("kitchen", 2).depth_m is None
    (root / "kitchen" / "depth").mkdir()
    for number, frame in list(zip(NUMBERS, frames, strict=True))[:3]:
        raw = np.round(frame.depth_m * 1000).astype(np.uint16)
        Image.fromarray(raw).save(root / "kitchen/depth" / f"{number}.png")
    dataset = open_root(root, depth="{scene}/depth/{frame}.png")
    measured = np.where(frames[2].depth_m > 65, 0, frames[2].depth_m)  # 65535 is a hole
    np.testing.assert_allclose(dataset.load("kitchen", 3).depth_m, measured)
    assert dataset.load("kitchen", 20).depth_m is None
    assert "sparse/0: 3 of the 5 pictures of the model have depth; the others go without" in caplog.text
    with pytest.raises(
        DataError, match=r"data.depth=\{scene\}/d/\{frame\}.png: no such file in scene kitchen; \{frame\} i"
    ):
        open_root(root, depth="{scene}/d/{frame}.png").frame_ids("kitchen")
    for path in (root / "kitchen/depth").iterdir():
        path.rename(path.with_name(f"9{path.name}"))
    with pytest.raises(
        DataError, match="3 files, but none of a frame's number in scene kitchen; .* 2 of cam/im_002.png$"
    ):
        open_root(root, depth="{scene}/depth/{frame}.png").frame_ids("kitchen")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"8&6&1&" + b"\0" * 188, "holds 47 depths, expected 48 of 8×6 pixels; copy it again"),
        (b"8&6&1&" + b"\0" * 200, "holds 50 depths, expected 48 of 8×6"),
        (b"8&6&3&" + b"\0" * 576, "8×6 pixels in 3 channels, expected depth in one channel"),
        (b"\x89PNG", "doesn't begin with width&height&1&, as depth maps of COLMAP's do"),
        (b"99999999&99999999&1&", "99999999×99999999 pixels in 1 channels"),
    ],
)
def test_a_bad_depth_map_is_bad_alone(write, data, message):
    root = write()
    (root / "kitchen/stereo/depth_maps" / f"{NAMES[0]}.geometric.bin").write_bytes(data)
    dataset = open_root(root)
    with pytest.raises(FrameError, match=message):
        dataset.load("kitchen", 2)
    assert dataset.load("kitchen", 3).depth_m is not None


def test_lenses_are_those_of_the_model(write):
    root = write(binary=False, camera=("OPENCV", [14, 15, 8, 6.5, -0.1, 0.02, 0.001, 0.002]))
    camera = open_root(root).load("kitchen", 2).color_camera
    assert camera.distortion == Distortion(radial=(-0.1, 0.02, 0, 0), tangential=(0.001, 0.002))
    assert camera.intrinsics.tolist() == [[14, 0, 7.5], [0, 15, 6], [0, 0, 1]]
    write(binary=True, camera=("SIMPLE_RADIAL", [14, 8, 6.5, -0.1]))  # and binary files win
    camera = open_root(root).load("kitchen", 2).color_camera
    assert camera.distortion == Distortion(radial=(-0.1, 0, 0, 0))
    assert camera.intrinsics.tolist() == [[14, 0, 7.5], [0, 14, 6], [0, 0, 1]]


def test_names_that_number_nothing_are_counted(write, caplog):
    with caplog.at_level(logging.INFO):
        dataset = open_root(write(names=["b/1.png", "a/1.png", "a/2.png", "b/2.png", "c.png"]))
        assert dataset.frame_ids("kitchen") == [0, 1, 2, 3, 4]
    assert "names don't number the pictures, so frames are counted in the order of names" in caplog.text
    assert dataset.load("kitchen", 0).image[0, 0, 0] == 40  # a/1.png is of the second frame


def test_pictures_on_either_side_alone_are_told(write, caplog):
    root = write()
    (root / "kitchen/images/cam/im_002.png").rename(root / "kitchen/images/cam/im_005.png")
    with caplog.at_level(logging.INFO):
        dataset = open_root(root)
        assert dataset.frame_ids("kitchen") == sorted(NUMBERS)
    assert "kitchen/images: 1 of the 5 pictures of the model are missing, cam/im_002.png first" in caplog.text
    assert "1 pictures are not in the model, and have no pose: cam/im_005.png first" in caplog.text
    with pytest.raises(FrameError, match="im_002.png: no such file"):
        dataset.load("kitchen", 2)
    assert dataset.load("kitchen", 3).frame_id == 3
    with pytest.raises(
        DataError, match=r"photos: holds none of the 5 pictures of the model in .*sparse/0, such as cam/im_"
    ):
        open_root(root, images="{scene}/photos").frame_ids("kitchen")


# A pose said twice: COLMAP from 3.12 on takes that of frames.*


@pytest.mark.parametrize("binary", [True, False])
def test_rigs_that_agree_are_fine_and_others_are_refused(write, frames, binary):
    first, second = (np.linalg.inv(frame.cam_to_world) for frame in frames[:2])
    folder = write(binary=binary) / "kitchen/sparse/0"
    write_rigs(folder, motion_of(first), motion_of(second @ np.linalg.inv(first)), binary=binary)
    posed = read_rig_poses(model_file(folder, "frames"), model_file(folder, "rigs"))
    assert {image: sensor is None for image, (_, sensor) in posed.items()} == {1: True, 2: False}
    expected = open_root(folder.parents[2]).load("kitchen", 10).cam_to_world
    np.testing.assert_allclose(expected, frames[1].cam_to_world, atol=1e-9)
    write_rigs(folder, motion_of(first), motion_of(random_pose(np.random.default_rng(0))), binary=binary)
    ending = "bin" if binary else "txt"
    with pytest.raises(
        DataError, match=rf"images.{ending} and frames.{ending} have two poses for cam/im_010.png; COLMAP fr"
    ):
        open_root(folder.parents[2]).frame_ids("kitchen")
    with model_file(folder, "frames").open("r+b") as file:
        file.truncate(60)
    with pytest.raises(DataError, match=rf"frames.{ending}: no file of a COLMAP model, or a damaged one \(.*cut off"):
        open_root(folder.parents[2]).frame_ids("kitchen")


# Bad models


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.images[0][1].__setitem__(slice(4), [0, 0, 0, 0]), "im_002.png: the quaternion is zero"),
        (lambda m: m.images[0][1].__setitem__(slice(4), [2, 0, 0, 0]), "im_002.png: the quaternion has length 2"),
        (lambda m: m.images[0][1].__setitem__(5, np.nan), "im_002.png: the pose holds inf or NaN"),
        (lambda m: m.cameras[7].__setitem__(1, 10), "K belongs to 10×12 pixels, but the picture has 16×12: one of"),
        (lambda m: m.cameras[7][3].__setitem__(0, 1e-9), "focal lengths 1e-09 and"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("binary", [True, False])
def test_a_bad_frame_is_named(write, change, message, binary):
    dataset = open_root(write(change, binary=binary))
    with pytest.raises(FrameError, match=message):
        dataset.load("kitchen", 2)
    assert len(dataset.frame_ids("kitchen")) == 5


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.images.clear(), "lists no picture, so nothing has a pose"),
        (lambda m: m.images[1].__setitem__(3, NAMES[0]), "lists cam/im_002.png twice; remove one"),
        (lambda m: m.images[1].__setitem__(2, 8), "im_010.png is of camera 8, which cameras.(bin|txt) lacks"),
        (lambda m: m.images[1].__setitem__(3, "../x.png"), "the picture's name '../x.png' leaves the folder"),
        (lambda m: m.cameras.__setitem__(7, ["FOV", 16, 12, [9, 9, 8, 6, 1]]), "camera 7: camera model FOV is not k"),
    ],
)  # fmt: skip
def test_a_bad_model_is_the_scenes_trouble(write, change, message, binary):
    with pytest.raises(DataError, match=message):
        open_root(write(change, binary=binary)).frame_ids("kitchen")


def test_a_binary_model_that_is_cut_off_anywhere_or_goes_on(write):
    folder = write() / "kitchen/sparse/0"
    readers = {"cameras": read_cameras, "images": read_images, "points3D": read_points}
    for name, read in readers.items():
        path = folder / f"{name}.bin"
        whole = path.read_bytes()
        for end in range(0, len(whole), 13):
            path.write_bytes(whole[:end])
            with pytest.raises(DataError, match=rf"{name}.bin: no file of a COLMAP model, or a damaged one"):
                read(path)
        path.write_bytes(whole + b"x")
        with pytest.raises(DataError, match=r"damaged one \(1 bytes too many\); export it again"):
            read(path)
        path.write_bytes(whole)
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ", 1, 3, 99, 4, 4))
    with pytest.raises(DataError, match="camera 3 has a model of the unknown number 99"):
        open_root(folder.parents[2]).frame_ids("kitchen")


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_a_text_model_that_is_none(write, name):
    root = write(binary=False)
    for text in ("1 2\n", "a b c d e f g h i j\n", "\xff\n"):
        (root / f"kitchen/sparse/0/{name}.txt").write_bytes(text.encode("latin-1"))
        with pytest.raises(
            DataError, match=rf"{name}.txt: no file of a COLMAP model, or a damaged one \(.*\); export it ag"
        ):
            open_root(root, sparse_points=True).load("kitchen", 2)


def test_where_the_model_is(write, tmp_path):
    with pytest.raises(
        DataError, match=r"holds no {scene}/sparse/0 or {scene}/sparse with a COLMAP model \(cameras.bin or"
    ):
        open_root(tmp_path).scenes()
    root = write(folder="colmap/sparse/1")
    assert open_root(root, sparse="{scene}/colmap/sparse/1").load("kitchen", 2).depth_m is not None
    write(folder="sparse/0")
    with pytest.raises(DataError, match="no such scene hall, expected .*sparse/0"):
        open_root(root).frame_ids("hall")
    with pytest.raises(DataError, match="it is there for data.root_is_scene=true$"):
        open_root(root / "kitchen").scenes()
    assert open_root(root / "kitchen", root_is_scene=True).load("kitchen", 2).depth_m is not None
    write(folder="sparse")
    with pytest.raises(DataError, match="sparse/0 and .*sparse both hold a COLMAP model; say which by data.sparse="):
        open_root(root).frame_ids("kitchen")
    (root / "kitchen/sparse/0/points3D.bin").unlink()
    one = {"sparse": "{scene}/sparse/0"}
    with pytest.raises(
        DataError, match="holds no points3D.bin or .txt, which data.sparse_points=true takes points from"
    ):
        open_root(root, **one, sparse_points=True).load("kitchen", 2)
    (root / "kitchen/sparse/0/images.bin").unlink()
    with pytest.raises(DataError, match=r"holds cameras.bin, but no images.bin or .txt; copy the whole model"):
        open_root(root, **one).frame_ids("kitchen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse": "sparse/0"}, r"data.sparse=.*has no \{scene\}"),
        ({"images": "{scene}/{frame}"}, r"data.images=.*\{frame\} has no meaning here"),
        ({"depth": "../{scene}"}, r"'..' leaves data.root"),
        ({"metres_per_unit": 0}, "data.metres_per_unit=0: expected a number above 0"),
        ({"depth_scale": 0}, "data.depth_scale=0: expected a number above 0"),
        ({"rotate": 45}, "data.rotate=45"),
    ],
)
def test_a_bad_configuration_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ColmapConfig(root="x", **changes)


def test_scannetpp_s_pictures_of_its_dslr_are_read_where_they_lie(write, frames):
    """Through their fisheye, of which the model knows; there is no depth."""
    first = frames[0].color_camera
    (fx, _, cx), (_, fy, cy), _ = first.intrinsics
    lens = [0.03, -0.01, 0.002, -0.001]
    names = [f"DSC{number:05d}.JPG" for number in NUMBERS]
    root = write(
        binary=False, folder="dslr/colmap", names=names, depth=False,
        camera=("OPENCV_FISHEYE", [fx, fy, cx + 0.5, cy + 0.5, *lens]),
    )  # fmt: skip
    (root / "kitchen" / "images").rename(root / "kitchen" / "dslr" / "resized_images")
    dataset = build_dataset(replace(layouts()["scannetpp_dslr"], root=str(root)))
    assert dataset.frame_ids("kitchen") == sorted(NUMBERS)
    for number, original in zip(NUMBERS, frames, strict=True):
        frame = dataset.load("kitchen", number)
        np.testing.assert_allclose(frame.cam_to_world, original.cam_to_world, atol=1e-9)
        np.testing.assert_allclose(frame.color_camera.intrinsics, first.intrinsics, atol=1e-9)
        assert frame.color_camera.distortion == Distortion(fisheye=True, radial=tuple(lens))
        assert frame.depth_m is None
        assert np.abs(frame.image.astype(int) - original.image).mean() < 10  # as JPEG


def test_it_is_known_without_a_word(write):
    root = write()
    for place in (root, root / "kitchen"):
        [reading] = readings(place, {"colmap": ColmapConfig(root=".")})
        assert (reading.layout, reading.root, reading.scenes, reading.frames) == ("colmap", root, ["kitchen"], 5)
        assert reading.frame is not None


def test_the_lists_of_points_in_a_picture_are_not_read(tmp_path, monkeypatch):
    """Of many pictures of 5,000 points each; the lists are holes in the file."""
    count, taken = 300, []
    take = colmap_files._Binary.bytes
    monkeypatch.setattr(colmap_files._Binary, "bytes", lambda file, n: taken.append(n) or take(file, n))
    path = tmp_path / "images.bin"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", count))
        for i in range(count):
            file.write(struct.pack("<I7dI", i, 1, 0, 0, 0, 0, 0, 0, 1) + b"%d.jpg\0" % i + struct.pack("<Q", 5000))
            file.seek(24 * 5000, 1)
        file.truncate()
    assert len(read_images(path)) == count
    assert sum(taken) < 100 * count


def test_models_that_pycolmap_writes(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 2, 2, 3, 30
    made = pycolmap.synthesize_dataset(options)
    for binary, save in ((True, made.write_binary), (False, made.write_text)):
        folder = tmp_path / f"{binary}" / "room" / "sparse"
        folder.mkdir(parents=True)
        save(str(folder))
        for image in made.images.values():
            path = tmp_path / f"{binary}" / "room" / "images" / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (image.camera.width, image.camera.height)).save(path)
        dataset = open_root(tmp_path / f"{binary}", sparse_points=True)
        images = sorted(made.images.values(), key=lambda image: image.name)
        for number, image in zip(dataset.frame_ids("room"), images, strict=True):
            frame = dataset.load("room", number)
            pose = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
            np.testing.assert_allclose(np.linalg.inv(frame.cam_to_world), pose, atol=1e-9)
            seen = {point.point3D_id for point in image.points2D if point.has_point3D()}
            xyz = np.array([made.points3D[i].xyz for i in seen])
            np.testing.assert_allclose(sorted(frame.points.tolist()), sorted(xyz.tolist()), atol=1e-9)
