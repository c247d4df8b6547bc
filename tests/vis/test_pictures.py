import os
import stat
import subprocess
import sys
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clipfeat.errors import ConfigError, OutputError
from clipfeat.types import PointFeatures
from clipfeat.vis.build import build_pictures
from clipfeat.vis.config import PAINTERS, VisConfig
from clipfeat.vis.pictures import NoPictures, ScenePictures, spread_evenly, thumbnail

pytestmark = pytest.mark.filterwarnings("error")


def features_of(count, channels=8, seed=0, size=(90, 60)):
    rng = np.random.default_rng(seed)
    return PointFeatures(
        pts_feat=rng.normal(size=(count, channels)).astype(np.float32),
        uv_idx=(rng.random((count, 2)) * (np.array(size) - 1)).astype(np.float32),
        conf_2d=np.ones(count, np.float32),
        xyz=np.zeros((count, 3), np.float32),
        pts_idx=np.arange(count),
    )


def image_of(width=90, height=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Keeper:
    """A painter that keeps what it is given and draws white."""

    def draw(self, scene_id, frames):
        self.scene_id, self.frames = scene_id, list(frames)
        for _ in frames:
            yield np.full((2, 3, 3), 255, np.uint8)


class OneScene:
    """The calls that the loop makes, for a scene in one thread."""

    def __init__(self, build):
        self.build = build

    def start_scene(self, scene_id, frame_ids):
        self.scene_id, self.kept = scene_id, []
        self.pictures = self.build({scene_id: frame_ids})

    def wants(self, frame_id):
        return self.pictures.choose(self.scene_id, frame_id, 10) is not None

    def add(self, frame_id, image, features, path):
        chosen = self.pictures.choose(self.scene_id, frame_id, len(features.pts_feat))
        if chosen is not None:
            self.kept.append(self.pictures.sample(self.scene_id, frame_id, image, features.take(chosen), path))

    def finish_scene(self):
        self.pictures.draw(self.scene_id, self.kept)
        self.pictures.close()
        return [frame.path for frame in self.kept]


def one_scene(kind, **options):
    of_build = {key: options.pop(key) for key in ("seed", "weights_note") if key in options}
    return OneScene(lambda frames_of: build_pictures(VisConfig(kind, **options), frames_of, **of_build))


def keeping(max_frames=50, overlay_points=4000, seed=0):
    keeper = Keeper()
    options = {"max_frames": max_frames, "overlay_points": overlay_points, "seed": seed}
    return keeper, OneScene(lambda frames_of: ScenePictures(keeper, frames_of, **options))


@pytest.mark.parametrize("kind", PAINTERS)
def test_each_kind_writes_valid_pngs_and_nothing_else(kind, tmp_path):
    pictures = one_scene(kind, dpi=30, points_per_frame=10, perplexity=5, weights_note="weights=random")
    pictures.start_scene("scene0000_00", [3, 9, 15])
    paths = [tmp_path / "scene0000_00" / f"vis_{i}.png" for i in (3, 9, 15)]
    for i, path, count in zip((3, 9, 15), paths, (40, 0, 1), strict=True):
        pictures.add(i, image_of(), features_of(count, seed=i), path)
    assert not (tmp_path / "scene0000_00").exists()
    assert pictures.finish_scene() == paths
    assert sorted((tmp_path / "scene0000_00").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert (picture.format, picture.mode) == ("PNG", "RGB")
            assert picture.width == 30 * (15 if kind == "tsne" else 10)


@pytest.mark.parametrize("kind", PAINTERS)
def test_constant_features(kind, tmp_path):
    pictures = one_scene(kind, dpi=30)
    pictures.start_scene("scene", [0])
    features = features_of(50)
    features.pts_feat[:] = 0.25
    pictures.add(0, image_of(), features, tmp_path / "0.png")
    assert len(pictures.finish_scene()) == 1


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        pictures = one_scene("tsne", dpi=30, points_per_frame=10, overlay_points=20, seed=1)
        pictures.start_scene("scene", [0])
        pictures.add(0, image_of(), features_of(50), tmp_path / name)
        pictures.finish_scene()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_pictures_has_the_methods_of_pictures_and_does_nothing(tmp_path):
    pictures = build_pictures(VisConfig("none"), {"scene": [1, 2]})
    assert isinstance(pictures, NoPictures)
    assert pictures.choose("scene", 1, 3) is None
    pictures.draw("scene", [])
    pictures.cancel()
    pictures.close()
    assert list(tmp_path.iterdir()) == []
    public = {name for name in vars(ScenePictures) if not name.startswith("_")}
    assert {name for name in vars(NoPictures) if not name.startswith("_")} == public


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"^vis='umap': expected one of tsne, pca, heatmap, none$"):
        build_pictures(VisConfig("umap"), {})


@pytest.mark.parametrize("n", [0, 1, 5, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_frames_are_spread_evenly(n, count):
    ids = [10 * i for i in range(n)]
    chosen = spread_evenly(ids, count)
    assert len(chosen) == min(n, count)
    assert chosen == sorted(set(chosen) & set(ids))
    gaps = np.diff([-1 - chosen[0] // 10, *(i // 10 for i in chosen), 2 * n - chosen[-1] // 10]) if chosen else []
    assert n <= count or max(gaps) - min(gaps) <= 2


def test_only_the_chosen_frames_are_wanted_and_kept(tmp_path):
    keeper, pictures = keeping(max_frames=2)
    pictures.start_scene("scene", [0, 3, 6, 9, 12, 15])
    assert [i for i in range(20) if pictures.wants(i)] == [3, 12]
    for i in (0, 3, 6, 9, 12, 15):
        pictures.add(i, image_of(), features_of(5), tmp_path / f"{i}.png")
    assert pictures.finish_scene() == [tmp_path / "3.png", tmp_path / "12.png"]
    assert [frame.frame_id for frame in keeper.frames] == [3, 12]
    assert keeper.scene_id == "scene"


def test_what_is_kept_is_bounded_and_no_view_of_the_input(tmp_path):
    keeper, pictures = keeping(overlay_points=100)
    image, features = image_of(2000, 1000), features_of(5000, size=(2000, 1000))
    small_image = image_of()
    pictures.start_scene("scene", [0, 1])
    pictures.add(0, image, features, tmp_path / "0.png")
    pictures.add(1, small_image, features_of(7), tmp_path / "1.png")
    before = small_image.copy()
    small_image[:] = 0
    pictures.finish_scene()
    large, small = keeper.frames
    assert large.thumbnail.shape == (360, 720, 3)
    assert large.directions.shape == (100, 8)
    assert large.directions.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(large.directions.astype(float), axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(small.thumbnail, before)
    for kept in (large.thumbnail, large.directions, large.uv):
        assert not any(np.shares_memory(kept, given) for given in (image, features.pts_feat, features.uv_idx))


def test_points_are_chosen_by_the_seed_and_stay_together_with_their_pixels(tmp_path):
    def kept(seed):
        keeper, pictures = keeping(overlay_points=50, seed=seed)
        pictures.start_scene("scene", [4])
        features = features_of(1000)
        features.uv_idx[:] = features.pts_feat[:, :2] / np.linalg.norm(features.pts_feat, axis=1, keepdims=True)
        pictures.add(4, image_of(), features, tmp_path / "4.png")
        pictures.finish_scene()
        return keeper.frames[0]

    np.testing.assert_array_equal(kept(0).uv, kept(0).uv)
    assert not np.array_equal(kept(0).uv, kept(1).uv)
    np.testing.assert_allclose(kept(0).directions[:, :2], kept(0).uv, atol=1e-3)


def test_frames_are_sampled_independently(tmp_path):
    keeper, pictures = keeping(overlay_points=50)
    pictures.start_scene("scene", [4, 5])
    for i in (4, 5):
        pictures.add(i, image_of(), features_of(1000), tmp_path / f"{i}.png")
    pictures.finish_scene()
    assert not np.array_equal(keeper.frames[0].uv, keeper.frames[1].uv)


@pytest.mark.parametrize(("u", "v"), [(0, 0), (1295, 967), (640.4, 300.7), (17, 900)])
def test_a_point_lands_on_its_pixel_of_the_thumbnail(u, v, tmp_path):
    keeper, pictures = keeping()
    pictures.start_scene("scene", [0])
    features = features_of(1)
    features.uv_idx[0] = u, v
    image = np.zeros((968, 1296, 3), np.uint8)
    rows, columns = np.mgrid[:968, :1296]
    bump = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 8.0**2))
    image[...] = np.rint(255 * bump)[..., None]
    pictures.add(0, image, features, tmp_path / "0.png")
    pictures.finish_scene()
    frame = keeper.frames[0]
    assert frame.thumbnail.shape == (538, 720, 3)
    scale_u, scale_v = 720 / 1296, 538 / 968
    np.testing.assert_allclose(frame.uv[0], [(u + 0.5) * scale_u - 0.5, (v + 0.5) * scale_v - 0.5], atol=1e-4)
    weight = frame.thumbnail[..., 0].astype(float)
    if 40 < u < 1250 and 40 < v < 920:
        rows, columns = np.mgrid[:538, :720]
        centre = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
        np.testing.assert_allclose(frame.uv[0], centre, atol=0.05)
    brightest = np.unravel_index(weight.argmax(), weight.shape)
    assert np.abs(np.array(brightest[::-1]) - frame.uv[0]).max() <= 1.5


def test_a_narrow_picture_is_not_enlarged():
    assert thumbnail(image_of(540, 360)).shape == (360, 540, 3)
    assert thumbnail(image_of(1440, 1)).shape == (1, 720, 3)


@pytest.mark.parametrize("field", ["pts_feat", "uv_idx"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_error(field, value, tmp_path):
    _, pictures = keeping()
    pictures.start_scene("scene0000_00", [7])
    features = features_of(20)
    getattr(features, field)[[3, 5], 1] = value
    with pytest.raises(ValueError, match=rf"^scene scene0000_00, frame 7: {field} holds inf or NaN in 2 of 20 points$"):
        pictures.add(7, image_of(), features, tmp_path / "x.png")


@pytest.mark.parametrize("image", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3))])
def test_another_kind_of_image_is_an_error(image, tmp_path):
    _, pictures = keeping()
    pictures.start_scene("scene", [7])
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8, got \(4, 5"):
        pictures.add(7, image, features_of(2), tmp_path / "x.png")


def test_a_picture_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    old = tmp_path / "0.png"
    old.write_bytes(b"old")
    _, pictures = keeping()
    pictures.start_scene("scene", [0])
    pictures.add(0, image_of(), features_of(5), old)

    def half(self, path, **_):
        path.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OutputError, match=r"0\.png: can't be written \(No space"):
        pictures.finish_scene()
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_picture_replaces_the_one_before_and_can_be_read_by_others(tmp_path):
    path, plain = tmp_path / "0.png", tmp_path / "plain"
    path.write_bytes(b"old")
    plain.touch()
    _, pictures = keeping()
    pictures.start_scene("scene", [0])
    pictures.add(0, image_of(), features_of(5), path)
    pictures.finish_scene()
    assert path.read_bytes().startswith(b"\x89PNG")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_importing_the_package_imports_nothing_heavy():
    program = """
import sys
from clipfeat.vis.build import build_pictures
from clipfeat.vis.config import VisConfig
build_pictures(VisConfig("tsne"), {"scene": [0]})
print(sorted({"matplotlib", "sklearn", "scipy", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pyplot_is_never_imported(tmp_path):
    program = f"""
import sys
from pathlib import Path
import numpy as np
from clipfeat.types import PointFeatures
from clipfeat.vis.build import build_pictures
from clipfeat.vis.config import VisConfig
pictures = build_pictures(VisConfig("heatmap", dpi=30), {{"scene": [0]}})
points = PointFeatures(np.ones((9, 4)), np.ones((9, 2)), np.ones(9), np.ones((9, 3)), np.arange(9))
frame = pictures.sample("scene", 0, np.zeros((6, 9, 3), np.uint8), points, Path({str(tmp_path / "0.png")!r}))
pictures.draw("scene", [frame])
print("matplotlib.pyplot" in sys.modules, "sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_processes_draw_the_same_pictures_in_the_background(tmp_path):
    scenes = {f"scene{i}": [0, 1] for i in range(5)}
    for processes in (0, 2):
        pictures = build_pictures(VisConfig("heatmap", dpi=30), scenes, processes=processes)
        for scene_id, ids in scenes.items():
            paths = [tmp_path / str(processes) / scene_id / f"{i}.png" for i in ids]
            frames = [
                pictures.sample(scene_id, i, image_of(), features_of(9), p) for i, p in zip(ids, paths, strict=True)
            ]
            pictures.draw(scene_id, frames)
        pictures.close()
    here, there = (sorted((tmp_path / str(n)).glob("*/*.png")) for n in (0, 2))
    assert len(here) == len(there) == 10
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(here, there, strict=True))


def test_an_error_in_a_process_reaches_the_caller(tmp_path):
    (tmp_path / "file").touch()
    pictures = build_pictures(VisConfig("pca", dpi=30), {"scene": [0]}, processes=1)
    frame = pictures.sample("scene", 0, image_of(), features_of(9), tmp_path / "file" / "0.png")
    pictures.draw("scene", [frame])
    with pytest.raises(OutputError, match="0.png: can't be written"):
        pictures.close()


class Dying:
    """A painter that takes its process with it."""

    def draw(self, scene_id, frames):
        os._exit(1)


def test_a_process_that_dies_is_told_in_one_line(tmp_path):
    pictures = ScenePictures(Dying(), {"scene": [0]}, max_frames=5, overlay_points=5, seed=0, processes=1)
    frame = pictures.sample("scene", 0, image_of(), features_of(9), tmp_path / "0.png")
    pictures.draw("scene", [frame])
    with pytest.raises(OutputError, match="a process that draws the pictures died, perhaps for want of memory"):
        pictures.close()


def test_a_bar_counts_the_pictures_that_are_waited_for(monkeypatch):
    pictures = build_pictures(VisConfig(name="pca"), {"s": [0]}, seed=0)
    assert pictures.wait() is None
    told = []

    @contextmanager
    def bar(total, unit, doing, shown):
        told.append((total, unit, doing))
        yield SimpleNamespace(update=told.append)

    monkeypatch.setattr("clipfeat.vis.pictures.progress_bar", bar)
    for count in (3, 2):
        drawn = Future()
        drawn.set_result(None)
        pictures._drawing[drawn] = count
    pictures.wait()
    assert told == [(5, "picture", "drawing"), 3, 2]
