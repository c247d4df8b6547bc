"""The demo renderer against slow twins, and against itself from other views."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter

from clipfeat.data.demo import SceneOptions, demo_scene_id, render_scene, render_scenes
from clipfeat.data.demo import scans as demo
from clipfeat.data.demo.room import Room, build_room
from clipfeat.errors import DataError, OutputError

SMALL = SceneOptions(num_frames=5, color_size=(160, 120), depth_size=(80, 60), mesh_spacing=0.08)
NUMBERS = [0, 20, 40, 60, 80]


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """Scene 0 without noise."""
    return render_scene(tmp_path_factory.mktemp("clean"), 0, SMALL)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """The same room with all that goes wrong, and another number of frames."""
    options = SceneOptions(
        num_frames=3, color_size=(160, 120), depth_size=(80, 60), mesh_spacing=0.08, depth_noise=0.01, depth_holes=0.3,
        lost_poses=1,
    )  # fmt: skip
    return render_scene(tmp_path_factory.mktemp("noisy"), 0, options)


@pytest.fixture(scope="module")
def room() -> Room:
    return demo.build_room(SMALL.seed, 0)


def matrix(path: Path) -> np.ndarray:
    return np.loadtxt(path)


def intrinsics(scene: Path, name: str) -> np.ndarray:
    return matrix(scene / "intrinsic" / f"intrinsic_{name}.txt")[:3, :3]


def depth_mm(scene: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(scene / "depth" / f"{number}.png"))


def lookup_depth(depth_m: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear in 1/z, which is exact on planes."""
    return 1 / map_coordinates(1 / depth_m, [uv[:, 1], uv[:, 0]], order=1)


def project(points: np.ndarray, k: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    camera = (np.linalg.inv(pose) @ np.c_[points, np.ones(len(points))].T)[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (k @ camera / camera[2])[:2].T, camera[2]


def inside(uv: np.ndarray, z: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (z > 0) & (uv >= 0).all(1) & (uv[:, 0] <= size[0] - 1) & (uv[:, 1] <= size[1] - 1)


def test_layout_and_types(clean):
    assert clean.name == demo_scene_id(0) == "demo0000_00"
    for folder, suffix in (
        ("color", "jpg"),
        ("depth", "png"),
        ("pose", "txt"),
        ("label-filt", "png"),
        ("instance-filt", "png"),
    ):
        assert {path.name for path in (clean / folder).iterdir()} == {f"{n}.{suffix}" for n in NUMBERS}
    for number in NUMBERS:
        assert np.asarray(Image.open(clean / "color" / f"{number}.jpg")).shape == (120, 160, 3)
        for folder, shape in (("depth", (60, 80)), ("label-filt", (120, 160)), ("instance-filt", (120, 160))):
            path = clean / folder / f"{number}.png"
            assert path.read_bytes()[24] == 16  # bits, as the file says: not every Pillow makes uint16 of them
            picture = np.asarray(Image.open(path))
            assert picture.shape == shape
            assert (picture > 0).all()
    for name in ("color", "depth"):
        assert (matrix(clean / "intrinsic" / f"extrinsic_{name}.txt") == np.eye(4)).all()
    # The picture spans [-0.5, W - 0.5], so half the size takes cx to (cx + 0.5) / 2 - 0.5.
    color, depth = intrinsics(clean, "color"), intrinsics(clean, "depth")
    np.testing.assert_allclose(depth[:2, 2], (color[:2, 2] + 0.5) / 2 - 0.5, atol=1e-9)
    np.testing.assert_allclose([depth[0, 0], depth[1, 1]], [color[0, 0] / 2, color[1, 1] / 2], atol=1e-9)
    assert json.loads((clean / "demo.json").read_text())["options"]["color_size"] == [160, 120]


def test_poses_are_rotations_far_from_the_origin(clean):
    for number in NUMBERS:
        pose = matrix(clean / "pose" / f"{number}.txt")
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert (pose[3] == (0, 0, 0, 1)).all()
        assert np.linalg.norm(pose[:3, 3]) > 2  # else a wrong direction would hardly show
        assert pose[2, 2] < -0.1  # looks down
        assert pose[2, 1] < -0.9  # the picture's down is the world's down


def test_the_pictures_are_worth_looking_at(clean):
    for number in NUMBERS:
        assert np.asarray(Image.open(clean / "color" / f"{number}.jpg")).std() > 25
        assert len(np.unique(np.asarray(Image.open(clean / "instance-filt" / f"{number}.png")))) >= 6


def test_same_options_give_equal_bytes(clean, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "build_room", build_room)
    again = render_scene(tmp_path, 0, SMALL)
    files = sorted(path.relative_to(clean) for path in clean.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (clean / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.parametrize(("seed", "index"), [(0, 1), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_another_seed_or_number_is_another_room(room, seed, index):
    other = demo.build_room(seed, index)
    assert np.abs(other.shell.center - room.shell.center).max() > 0.1


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (0, 1), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_rooms_are_furnished_and_the_camera_is_free(seed, index):
    room = demo.build_room(seed, index)
    assert 8 <= room.num_objects <= 14
    for count in (1, 5, 40):
        for frame in range(count):
            position = room.camera_pose(frame, count, (seed, index, 1))[:3, 3]
            assert (np.abs(room.shell.to_local(position)) < room.shell.size / 2 - 0.3).all()
            assert min(box.distance(position) for box in room.boxes) > 0.4


def slow_ray(room: Room, start: list[float], ray: list[float]) -> tuple[float, int]:
    """One ray against one box after the other: (distance in lengths of the ray, label)."""

    def crossings(box):
        # Turn the world by -yaw around the box's centre, then cut with three slabs.
        c, s = math.cos(-box.yaw), math.sin(-box.yaw)
        dx, dy, dz = (start[i] - box.center[i] for i in range(3))
        local, step = (c * dx - s * dy, s * dx + c * dy, dz), (c * ray[0] - s * ray[1], s * ray[0] + c * ray[1], ray[2])
        enter, leave, axis = -math.inf, math.inf, None
        for i in range(3):
            first, second = sorted((side * box.size[i] / 2 - local[i]) / step[i] for side in (-1, 1))
            enter = max(enter, first)
            if second < leave:
                leave, axis = second, i
        return enter, leave, axis, step

    _, best, axis, step = crossings(room.shell)
    label = 1 if axis < 2 else 41 if step[2] > 0 else 3
    for box in room.boxes:
        enter, leave, _, _ = crossings(box)
        if 0 < enter <= leave and enter < best:
            best, label = enter, box.label
    return best, label


def test_depth_and_labels_equal_a_slow_twin(clean, room):
    rng = np.random.default_rng(3)
    seen = set()
    for number in (0, 40, 80):
        pose = matrix(clean / "pose" / f"{number}.txt")
        labels = np.asarray(Image.open(clean / "label-filt" / f"{number}.png"))
        depth = depth_mm(clean, number)
        for picture, k in ((depth, intrinsics(clean, "depth")), (labels, intrinsics(clean, "color"))):
            for _ in range(40):
                v, u = (int(rng.integers(n)) for n in picture.shape)
                ray = pose[:3, :3] @ [(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0]
                z, label = slow_ray(room, pose[:3, 3].tolist(), ray.tolist())
                seen.add(label)
                expected = z * 1000 if picture is depth else label
                assert abs(float(picture[v, u]) - expected) <= (0.501 if picture is depth else 0), (number, u, v)
    assert len(seen) > 5


def test_views_agree_and_overlap(clean):
    k = intrinsics(clean, "depth")
    v, u = np.mgrid[:60, :80]
    for first, second in pairwise(NUMBERS):
        z = depth_mm(clean, first).ravel() / 1000
        rays = np.linalg.inv(k) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
        pose = matrix(clean / "pose" / f"{first}.txt")
        world = (pose[:3, :3] @ (rays * z)).T + pose[:3, 3]
        uv, z_second = project(world, k, matrix(clean / "pose" / f"{second}.txt"))
        seen = inside(uv, z_second, (80, 60))
        assert seen.mean() >= 0.5
        error = np.abs(z_second[seen] - lookup_depth(depth_mm(clean, second) / 1000, uv[seen]))
        assert np.median(error) < 0.002


def test_mesh_carries_the_labels_of_the_pictures(clean):
    plain = trimesh.load(clean / "demo0000_00_vh_clean_2.ply", process=False)
    mesh = trimesh.load(clean / "demo0000_00_vh_clean_2.labels.ply", process=False)
    raw = mesh.metadata["_ply_raw"]["vertex"]["data"]
    assert (plain.vertices == mesh.vertices).all()
    assert plain.visual.vertex_colors[:, :3].std() > 25
    assert raw["label"].dtype == raw["instance"].dtype == np.uint16
    edges = mesh.vertices[mesh.edges_unique]
    assert np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1).max() <= SMALL.mesh_spacing * math.sqrt(2) + 1e-5
    for number in NUMBERS:
        pose = matrix(clean / "pose" / f"{number}.txt")
        uv, z = project(mesh.vertices, intrinsics(clean, "color"), pose)
        uv_depth, _ = project(mesh.vertices, intrinsics(clean, "depth"), pose)
        seen = np.flatnonzero(inside(uv, z, (160, 120)) & inside(uv_depth, z, (80, 60)))
        seen = seen[np.abs(lookup_depth(depth_mm(clean, number) / 1000, uv_depth[seen]) - z[seen]) < 0.01]
        instances = np.asarray(Image.open(clean / "instance-filt" / f"{number}.png"))
        labels = np.asarray(Image.open(clean / "label-filt" / f"{number}.png"))
        column, row = np.round(uv[seen]).astype(int).T
        flat = (maximum_filter(instances, 3) == minimum_filter(instances, 3))[row, column]
        assert flat.sum() > 500
        assert (raw["label"][seen] == labels[row, column])[flat].mean() >= 0.99
        assert (raw["instance"][seen] == instances[row, column])[flat].mean() >= 0.99
        front = (mesh.vertex_normals[seen] * (pose[:3, 3] - mesh.vertices[seen])).sum(axis=1) > 0
        assert front.mean() >= 0.85  # on an edge of a box, the vertex of the hidden face is seen too
        picture = np.asarray(Image.open(clean / "color" / f"{number}.jpg"))[row, column][flat].ravel()
        assert np.corrcoef(mesh.visual.vertex_colors[seen][flat, :3].ravel(), picture)[0, 1] > 0.7


def test_the_room_does_not_depend_on_what_is_rendered(clean, noisy):
    for name in ("demo0000_00_vh_clean_2.ply", "color/20.jpg", "label-filt/20.png"):
        assert (clean / name).read_bytes() == (noisy / name).read_bytes()


def test_noise_holes_and_lost_poses(clean, noisy):
    for number in (0, 20, 40):
        exact, measured = depth_mm(clean, number) / 1000, depth_mm(noisy, number) / 1000
        assert (measured == 0).mean() == pytest.approx(0.3, abs=0.05)
        hole = measured == 0
        assert (hole[:, 1:] == hole[:, :-1]).mean() > 0.75  # blobs; single pixels would give 0.58
        scaled = ((measured - exact) / exact**2)[~hole]
        assert scaled.std() == pytest.approx(0.01, rel=0.1)
        assert abs(scaled.mean()) < 0.001
    poses = [matrix(noisy / "pose" / f"{number}.txt") for number in (0, 20, 40)]
    assert [bool(np.isneginf(pose).all()) for pose in poses] == [False, True, False]
    assert (poses[0] == matrix(clean / "pose" / "0.txt")).all()
    assert demo.lost_frames(10, 3) == {1, 5, 8}
    assert demo.lost_frames(3, 5) == {0, 1, 2}
    assert demo.lost_frames(3, 0) == set()


def test_a_rendered_scene_is_found_again_and_other_options_are_refused(clean, monkeypatch):
    monkeypatch.setattr(demo, "build_room", lambda *_: pytest.fail("rendered again"))
    assert render_scenes(clean.parent, 1, SMALL, progress=False) == [clean]
    with pytest.raises(DataError) as error:
        render_scene(clean.parent, 0, SceneOptions(**{**vars(SMALL), "num_frames": 7, "depth_size": (64, 48)}))
    assert str(error.value) == (
        f"{clean} was rendered with other options: depth_size=[80, 60] (asked for [64, 48]), num_frames=5 (asked for "
        "7): choose another data.root, or delete the folder"
    )


@pytest.mark.parametrize("text", [None, "", "[]", '{"renderer_version": 1}', '{"renderer_version": 1, "options": 3}'])
def test_a_folder_that_is_no_demo_scene_is_refused(tmp_path, text):
    folder = tmp_path / "demo0000_00"
    folder.mkdir()
    if text is not None:
        (folder / "demo.json").write_text(text)
    with pytest.raises(DataError, match=r"is no rendered demo scene .* choose another data.root, or delete the folder"):
        render_scene(tmp_path, 0, SMALL)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch, error, room):
    seen = []

    def paint(*_):
        seen.append([path.name for path in tmp_path.iterdir()])
        raise error

    monkeypatch.setattr(demo, "build_room", lambda *_: room)
    monkeypatch.setattr(demo, "paint", paint)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OutputError):
        render_scene(tmp_path, 0, SMALL)
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(".")  # what a kill would leave is hidden
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"cannot write the demo scene .*file.demo0000_00: .*; choose another data.root"
    ):
        render_scene(tmp_path / "file", 0, SMALL)


def test_another_process_that_was_faster_wins(clean, tmp_path, monkeypatch, room):
    def build(*_):
        other = tmp_path / "demo0000_00"
        other.mkdir()
        (other / "demo.json").write_text((clean / "demo.json").read_text())
        return room

    monkeypatch.setattr(demo, "build_room", build)
    assert render_scene(tmp_path, 0, SMALL) == tmp_path / "demo0000_00"
    assert [path.name for path in tmp_path.iterdir()] == ["demo0000_00"]
