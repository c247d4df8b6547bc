"""Names that are times, confidence, poses in one JSON file: small recordings as of ARKitScenes and ScanNet++."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from twins import random_pose

from clipfeat.data.layouts import build_dataset, layouts
from clipfeat.data.matching import ClocksError
from clipfeat.errors import DataError, FrameError

VIDEO, FRAMES = "41048190", (3387000, 3387100, 3387200, 3387300)
SCENE = "0a7cc12c0e"
K = (30.5, 31, 16.25, 11)
POSES = [random_pose(np.random.default_rng(number)) for number in range(4)]


@pytest.fixture(scope="module")
def known():
    return layouts()


@pytest.fixture
def opened(known, tmp_path):
    return lambda name, **changes: build_dataset(replace(known[name], root=str(tmp_path), **changes))


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


@pytest.fixture
def arkit(tmp_path):
    """Four frames; the third one's K is a millisecond late, poses are 0.4 ms late, the third row of depth is unsure."""
    base, lines = tmp_path / VIDEO, []
    for i, number in enumerate(FRAMES):
        name = f"{VIDEO}_{number / 1000:.3f}"
        save(base / "lowres_wide" / f"{name}.png", np.full((24, 32, 3), 40 * i, np.uint8))
        save(base / "lowres_depth" / f"{name}.png", np.full((24, 32), 1000 + i, np.uint16))
        save(base / "confidence" / f"{name}.png", np.repeat(np.arange(24, dtype=np.uint8)[:, None] % 3, 32, 1))
        k = base / "lowres_wide_intrinsics" / f"{VIDEO}_{(number + (i == 2)) / 1000:.3f}.pincam"
        k.parent.mkdir(exist_ok=True)
        k.write_text(f"32 24 {' '.join(map(str, (K[0] + i, *K[1:])))}\n")
        pose = np.linalg.inv(POSES[i])
        numbers = [number / 1000 + 0.0004, *Rotation.from_matrix(pose[:3, :3]).as_rotvec(), *pose[:3, 3]]
        lines.append(" ".join(f"{x:.9f}" for x in numbers))
    (base / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    return base


def test_pictures_depth_confidence_k_and_poses_go_by_their_times(arkit, opened):
    dataset = opened("arkitscenes")
    assert (dataset.scenes(), dataset.frame_ids(VIDEO)) == ([VIDEO], list(FRAMES))
    assert dataset.names_of(VIDEO, FRAMES[2])["frame"] == "3387.200"
    for i, number in enumerate(FRAMES):
        frame = dataset.load(VIDEO, number)
        np.testing.assert_allclose(frame.cam_to_world, POSES[i], atol=1e-7)
        assert frame.color_camera.intrinsics[0, 0] == K[0] + i
        assert set(np.unique(frame.depth_m[::3])) == {0}
        np.testing.assert_allclose(frame.depth_m[1::3], (1000 + i) / 1000)
    surest = opened("arkitscenes", confidence_min=2).load(VIDEO, FRAMES[0]).depth_m
    weighed = opened("arkitscenes", confidence_min=None, confidence_full=2).load(VIDEO, FRAMES[0])
    assert weighed.depth_m.all()
    np.testing.assert_array_equal(weighed.depth_weight[:, 0], np.arange(24) % 3 / 2)
    with pytest.raises(FrameError, match=r"confidence up to 2, more than data.confidence_full=1, which is what the"):
        opened("arkitscenes", confidence_min=None, confidence_full=1).load(VIDEO, FRAMES[0])
    assert np.count_nonzero(surest) == surest.size / 3
    assert opened("arkitscenes", confidence=None, confidence_min=None).load(VIDEO, FRAMES[0]).depth_m.all()


def test_what_is_missing_in_the_middle_shifts_nothing_and_is_told(arkit, opened, caplog):
    name = f"{VIDEO}_{FRAMES[1] / 1000:.3f}.png"
    (arkit / "lowres_wide" / name).unlink()
    (arkit / "lowres_depth" / f"{VIDEO}_3387.200.png").unlink()
    traj = arkit / "lowres_wide.traj"
    traj.write_text("".join(traj.read_text().splitlines(keepends=True)[:3]))
    dataset = opened("arkitscenes")
    with caplog.at_level(logging.INFO, "clipfeat"):
        assert dataset.frame_ids(VIDEO) == [FRAMES[0], FRAMES[2]]
        assert opened("arkitscenes", posed_only=False, depth=None, confidence=None, confidence_min=None).frame_ids(
            VIDEO
        ) == [FRAMES[0], FRAMES[2], FRAMES[3]]
    told = [record.getMessage() for record in caplog.records]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert (
        "_{stamp}.png: 1 of 3 pictures have no depth of their own within data.max_dt=0.005 s: frame 3387200" in told[0]
    )
    assert "lowres_wide.traj: 1 of 3 pictures have no pose of their own" in told[1]
    assert told[2] == f"WARNING {told[1]}"
    np.testing.assert_allclose(dataset.load(VIDEO, FRAMES[2]).cam_to_world, POSES[2], atol=1e-7)
    assert dataset.load(VIDEO, FRAMES[2]).depth_m is None
    with pytest.raises(FrameError, match=r"traj: no pose for frame 3387300 at 3387.300000 s, the nearest is 0.100 s"):
        dataset.load(VIDEO, FRAMES[3])


PINCAM = f"lowres_wide_intrinsics/{VIDEO}_3387.000.pincam"


def spoil(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def picture(folder, *size):
    def write(base):
        save(base / folder / f"{VIDEO}_3387.000.png", np.zeros(size, np.uint8))

    return write


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda b: (b / PINCAM).unlink(), FrameError,
         r"pincam: no K for frame 3387000 at 3387.000000 s, the nearest is 0.100 s away and data.max_dt=0.005"),
        (lambda b: (b / PINCAM).write_text("30 31 16 11"), FrameError,
         "3387.000.pincam: 4 values, expected 'width height fx fy cx cy', whole numbers of pixels first"),
        (lambda b: (b / PINCAM).write_text("32 24 30 31 16 x"), FrameError,
         "3387.000.pincam: could not convert string to float: 'x', expected 'width height"),
        (lambda b: (b / PINCAM).write_text("1920 1440 30 31 16 11"),
         FrameError, "pincam: K's principal point .* is far from the middle of 1920×1440 pixels"),
        (picture("confidence", 48, 64), FrameError, "3387.000.png: confidence of 64×48 pixels, but depth has 32×24"),
        (lambda b: (b / "confidence" / f"{VIDEO}_3387.000.png").write_text(""), FrameError,
         "3387.000.png: .*; data.confidence=null data.confidence_min=null takes all depth as it is"),
        (lambda b: spoil(b / "lowres_wide.traj", "3387.", "87."), ClocksError,
         r"lowres_wide.traj: no pose is within data.max_dt=0.005 s of a picture; pictures are from 3387.000 to 3387"),
        (lambda b: (b / "lowres_wide.traj").write_text("3387.0 0 90 0 1 2 3"), FrameError,
         r"traj, line 1: a rotation by 90, expected radians, 2π at most .columns: timestamp rx ry rz tx ty tz.; deg"),
        (lambda b: (b / "lowres_wide.traj").write_text("3387.0 0 nan 0 1 2 3"), FrameError,
         "traj, line 1: the rotation holds inf or NaN, so tracking was lost"),
        (lambda b: (b / "lowres_wide.traj").write_text("3387.0 0 0 0 1 2 3 1"), DataError,
         "traj, line 1: 8 values, expected 'timestamp rx ry rz tx ty tz'"),
        (lambda b: (b / "lowres_wide" / f"{VIDEO}_3387.2.png").touch(), DataError,
         r"png: a time of [13] decimals among others of [13]; rename the files, so that all have as many"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named(arkit, opened, damage, error, message):
    damage(arkit)
    with pytest.raises(error, match=message) as caught:
        opened("arkitscenes").load(VIDEO, FRAMES[0])
    assert "\n" not in str(caught.value)


def test_other_units(arkit, opened):
    for path in (arkit / "lowres_wide").iterdir():
        path.rename(path.with_name(f"{path.stem.split('_')[1].replace('.', '')}.png"))
    changes = {"color": "{scene}/lowres_wide/{stamp}.png", "depth": None, "confidence": None, "confidence_min": None}
    changes |= {"intrinsics_file": None, "intrinsics": list(K), "depth_intrinsics_size": None}
    assert opened("arkitscenes", stamp_unit="ms", **changes).load(VIDEO, FRAMES[1]).frame_id == FRAMES[1]
    with pytest.raises(ClocksError, match=r"pictures are from 3.387 to 3.387 s, these from 3387.000 to 3387.300 s"):
        opened("arkitscenes", stamp_unit="us", **changes).frame_ids(VIDEO)


@pytest.fixture
def scannetpp(tmp_path):
    base, found = tmp_path / SCENE / "iphone", {}
    for i, pose in enumerate(POSES):
        save(base / "rgb" / f"frame_{10 * i:06d}.jpg", np.full((24, 32, 3), 40 * i, np.uint8))
        save(base / "depth" / f"frame_{10 * i:06d}.png", np.full((12, 16), 1000 + i, np.uint16))
        fx, fy, cx, cy = (60.0 * x for x in K)
        field = {"intrinsic": [[fx + i, 0, cx], [0, fy, cy], [0, 0, 1]], "aligned_pose": pose.tolist(), "imu": {}}
        found[f"frame_{10 * i:06d}"] = field
    (base / "pose_intrinsic_imu.json").write_text(json.dumps(found))
    return base


def test_poses_and_k_in_one_file_go_by_the_picture_s_name(scannetpp, opened):
    (scannetpp / "rgb" / "frame_000010.jpg").unlink()
    dataset = opened("scannetpp_iphone")
    assert dataset.frame_ids(SCENE) == [0, 20, 30]
    frame = dataset.load(SCENE, 20)
    np.testing.assert_array_equal(frame.cam_to_world, POSES[2])
    changed("aligned_pose", None)(scannetpp / "pose_intrinsic_imu.json")
    spoil(scannetpp / "pose_intrinsic_imu.json", "frame_000030", "frame_000031")
    assert opened("scannetpp_iphone", posed_only=True).frame_ids(SCENE) == [0, 20]
    np.testing.assert_allclose(frame.color_camera.intrinsics[0, 0], (60 * K[0] + 2) / 60)


def changed(field, value):
    def write(path):
        found = json.loads(path.read_text())
        found["frame_000020"][field] = value
        path.write_text(json.dumps(found))

    return write


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda p: p.unlink(), DataError, "imu.json: no such file, a JSON file of all frames was expected"),
        (lambda p: p.write_text("[1]"), DataError, "imu.json: is a list and not an object; a JSON file of all frames"),
        (lambda p: p.write_text('{"frames": [], "w": 3}'), FrameError,
         "has no frame_000020/aligned_pose, where there is frames, w; a camera-to-world pose was expected at data"),
        (lambda p: p.write_text('{"frame_000020": {"pose": []}}'), FrameError,
         "has no frame_000020/aligned_pose, where there is pose; a camera-to-world"),
        (changed("aligned_pose", [[1, 2]]), FrameError, r"json: of shape \(1, 2\), expected 4×4 or 3×4; a camera-to-"),
        (changed("aligned_pose", np.diag([2, 2, 2, 1]).tolist()), FrameError, "frame_000020/aligned_pose: the upper"),
        (changed("intrinsic", [1, 2, 3]), FrameError,
         r"frame_000020/intrinsic is of shape \(3,\); a 3×3 K was expected at data.intrinsics_field=frame_"),
        (changed("intrinsic", [[30, 0, 16], [0, 30, 11], [0, 0, 1]]), FrameError,
         "frame_000020/intrinsic: K's principal point .* as if K belonged to some 32×22; data.intrinsics_size must be"),
    ],
)  # fmt: skip
def test_json_of_another_schema_is_named(scannetpp, opened, damage, error, message):
    damage(scannetpp / "pose_intrinsic_imu.json")
    with pytest.raises(error, match=message):
        opened("scannetpp_iphone").load(SCENE, 20)


def test_depth_of_other_numbers_than_the_pictures(scannetpp, opened, caplog):
    (scannetpp / "depth" / "frame_000010.png").rename(scannetpp / "depth" / "frame_000011.png")
    with caplog.at_level(logging.INFO, "clipfeat"):
        opened("scannetpp_iphone").frame_ids(SCENE)
    assert [record.getMessage().split("png: ")[1] for record in caplog.records] == [
        "1 of 4 pictures have no depth: frame 10; 1 of 4 files are of no picture: frame 11"
    ]
    for path in sorted((scannetpp / "depth").iterdir()):
        path.rename(path.with_name(path.name.replace("frame_", "frame_1")))
    with pytest.raises(DataError, match=r"depth/frame_\{frame\}.png: none of these 4 files is of a picture: they are "
                       "numbered 1000000 to 1000030, the pictures 0 to 30"):  # fmt: skip
        opened("scannetpp_iphone").frame_ids(SCENE)
