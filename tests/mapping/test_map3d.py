"""A map that frames are added to: against slow twins in float64, and against the same frames fused from a store."""

import dataclasses

import numpy as np
import pytest
import torch
from runs_to_fuse import SCENES, mesh_path, run_of
from twins import slow_sample

import clipfeat
from clipfeat.camera.masks import MaskRule
from clipfeat.camera.projection import unproject_depth
from clipfeat.camera.visibility import VisibilityRule
from clipfeat.data.scannet import ScanNetDataset
from clipfeat.errors import ConfigError, DataError, FrameError
from clipfeat.mapping.device_merger import DeviceMerger
from clipfeat.mapping.map3d import FeatureMap3D
from clipfeat.output.fused import read_fused, write_fused
from clipfeat.output.store import FeatureStore
from clipfeat.results.config import FuseConfig
from clipfeat.results.fuse import fuse
from clipfeat.sampling.merge import ViewMerger
from clipfeat.sampling.point_files import read_points
from clipfeat.sampling.voxels import VOXEL
from clipfeat.types import FeatureMap, Points, resize_affine

SIZE = 0.2


@pytest.fixture(scope="session")
def store_of(demo_root, tiny_arch, tmp_path_factory):
    return lambda name: run_of(name, demo_root, tiny_arch, tmp_path_factory)


@pytest.fixture(scope="session")
def model(tiny_arch):
    return clipfeat.load_model(device="cpu", overrides=[f"model.arch={tiny_arch}", "model.pretrained=null"])


@pytest.fixture(scope="session")
def text_model(text_arch):
    overrides = [f"model.arch={text_arch}", "model.pretrained=null", "model/head=text"]
    return clipfeat.load_model(device="cpu", overrides=overrides)


def filled(model, frames, **options):
    found = FeatureMap3D(model, **{"voxel_size": SIZE, "scene_id": frames[0].scene_id} | options)
    for frame in frames:
        found.add_frame(frame)
    return found


def by_voxel(found):
    """Features, positions, colours and weights in the order of the voxels."""
    points = found.points()
    order = np.lexsort(points.attributes[VOXEL].T)
    kept = [found.features(), points.xyz, points.attributes["rgb"].astype(float), found.weight, found.views]
    return points.attributes[VOXEL][order], [values[order] for values in kept]


def assert_alike(first, second, atol=1e-5):
    (cells, values), (other_cells, others) = by_voxel(first), by_voxel(second)
    np.testing.assert_array_equal(cells, other_cells)
    for i, (one, other) in enumerate(zip(values, others, strict=True)):
        np.testing.assert_allclose(one, other, atol=1.001 if i == 2 else atol)  # a colour's rounding may tip over


def slow_view(model, frame):
    """Voxel to (weight, feature, position) of one frame, a pixel and a point at a time, in float64."""
    depth, k, pose = frame.depth_m.astype(np.float64), frame.depth_camera.intrinsics, frame.cam_to_world
    of_voxel = {}
    for v, u in zip(*np.nonzero((depth >= 0.1) & (depth <= 20)), strict=True):
        ray = np.array([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1]) * depth[v, u]
        world = pose[:3, :3] @ ray + pose[:3, 3]
        of_voxel.setdefault(tuple(np.floor(world / SIZE).astype(int)), []).append(world)
    [feature_map] = model.feature_maps(
        [model.network_input(frame)], [(frame.color_camera.width, frame.color_camera.height)]
    )
    values, affine, found = feature_map.values.double().numpy(), feature_map.image_to_map, {}
    for cell, points in of_voxel.items():
        mean = np.mean(points, 0)
        x, y, z = np.linalg.solve(pose, [*mean, 1])[:3]
        uvw = frame.color_camera.intrinsics @ [x, y, z]
        uv = (uvw[:2] / z).astype(np.float32).astype(np.float64)
        inside = (uv >= -1e-3) & (uv <= [frame.color_camera.width - 1 + 1e-3, frame.color_camera.height - 1 + 1e-3])
        du, dv = (k @ [x, y, z])[:2] / z + 0.5
        if not inside.all() or not (0 <= du <= depth.shape[1] and 0 <= dv <= depth.shape[0]):
            continue
        measured = depth[min(int(dv), depth.shape[0] - 1), min(int(du), depth.shape[1] - 1)]
        allowed = max(0.03, 0.01 * z)
        if measured > 0 and abs(z - measured) <= allowed:
            feature = slow_sample(values, [affine[:, :2] @ uv + affine[:, 2]])[0]
            found[cell] = (np.exp(-0.5 * (3 * (z - measured) / allowed) ** 2), feature, mean)
    return found


@pytest.mark.parametrize("most", [None, 1.2])
def test_a_map_equals_its_slow_float64_twin(model, demo_frames, most):
    found = filled(model, demo_frames, max_weight=most)
    expected = {}
    for frame in demo_frames:
        for cell, (weight, feature, position) in slow_view(model, frame).items():
            total, *means = expected.get(cell, (0.0, 0 * feature, 0 * position))
            share = weight / (total + weight)
            means = [(1 - share) * mean + share * new for mean, new in zip(means, (feature, position), strict=True)]
            expected[cell] = (min(total + weight, most or np.inf), *means)
    points = found.points()
    assert set(map(tuple, points.attributes[VOXEL])) == set(expected)
    weight, mean, xyz = (np.array(v) for v in zip(*(expected[tuple(c)] for c in points.attributes[VOXEL]), strict=True))
    np.testing.assert_allclose(found.features(), mean, atol=1e-5)
    np.testing.assert_allclose(points.xyz, xyz, atol=1e-5)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-4)
    assert found.views.max() > 1
    assert (np.floor(points.xyz / SIZE) == points.attributes[VOXEL]).all()


def test_any_order_of_frames_gives_the_same_map_without_fading(model, demo_frames):
    assert_alike(filled(model, demo_frames), filled(model, [demo_frames[i] for i in (2, 0, 3, 1)]))
    faded = [filled(model, frames, max_weight=1.0) for frames in (demo_frames, demo_frames[::-1])]
    assert np.abs(by_voxel(faded[0])[1][0] - by_voxel(faded[1])[1][0]).max() > 0.1


class HalfMaps:
    """The model with its maps rounded as output=grid rounds them."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def feature_maps(self, inputs, sizes):
        maps = self.model.feature_maps(inputs, sizes)
        return [dataclasses.replace(one, values=one.values.half()) for one in maps]


@pytest.mark.parametrize("name", ["grid", "text"])
def test_frame_by_frame_equals_fusing_measured_voxels_from_the_store(store_of, demo_root, tiny_arch, tmp_path, name):
    fuse(FuseConfig(str(store_of(name)), str(tmp_path), points="measured", voxel_size=SIZE, formats=[]))
    head = "text" if name == "text" else "none"
    overrides = [f"model.arch={tiny_arch}", "model.pretrained=null", f"model/head={head}"]
    model = HalfMaps(clipfeat.load_model(device="cpu", overrides=overrides))
    dataset = ScanNetDataset(demo_root)
    for scene_id in SCENES:
        fused = read_fused(tmp_path / f"{scene_id}.npz")
        assert fused.meta["points"] == "measured"
        frames = [dataset.load(scene_id, frame_id) for frame_id in dataset.frame_ids(scene_id)]
        found = filled(model, frames)
        np.testing.assert_array_equal(found.points().attributes[VOXEL], fused.points.attributes[VOXEL])
        np.testing.assert_allclose(found.features(), fused.pts_feat, atol=1e-5)
        np.testing.assert_allclose(found.points().xyz, fused.points.xyz, atol=1e-5)
        np.testing.assert_array_equal(found.points().attributes["rgb"], fused.points.attributes["rgb"])
        np.testing.assert_array_equal(found.views, fused.views)
        assert fused.seen.all()


def test_given_points_equal_fusing_float32_features_at_them(store_of, demo_root, model, tmp_path):
    """What the store of output=npz sampling=mesh keeps is in float32: nothing was rounded on the way."""
    store = store_of("vertices")
    fuse(FuseConfig(str(store), str(tmp_path), formats=[]))
    dataset = ScanNetDataset(demo_root)
    for scene_id in SCENES:
        fused, mesh = read_fused(tmp_path / f"{scene_id}.npz"), read_points(mesh_path(demo_root, scene_id))
        frames = [dataset.load(scene_id, frame_id) for frame_id in dataset.frame_ids(scene_id)]
        for order in (frames, frames[::-1]):
            found = filled(model, order, points=mesh)
            np.testing.assert_allclose(found.features(), fused.pts_feat, atol=1e-5)
            np.testing.assert_array_equal(found.views, fused.views)
            np.testing.assert_allclose(found.weight, fused.weight, rtol=1e-5)
        assert found.points() is mesh
        assert FeatureStore(store).load(scene_id, 0).pts_feat.dtype == np.float32


def test_voxels_of_stored_points_are_their_weighted_means(store_of, tmp_path):
    store, scene_id = FeatureStore(store_of("depth")), SCENES[0]
    fuse(FuseConfig(str(store.folder), str(tmp_path), points="measured", voxel_size=SIZE, formats=[]))
    found, views = read_fused(tmp_path / f"{scene_id}.npz"), {}
    for frame_id in store.frames(scene_id):
        features, own = store.load(scene_id, frame_id), {}
        for xyz, conf, one in zip(features.xyz.astype(float), features.conf_2d, features.pts_feat, strict=True):
            own.setdefault(tuple(np.floor(xyz * (1 / SIZE)).astype(int)), []).append((float(conf), one.astype(float)))
        for cell, seen in own.items():
            weights = [weight for weight, _ in seen]
            views.setdefault(cell, []).append((np.mean(weights), np.average([f for _, f in seen], 0, weights)))
    cells = list(map(tuple, found.points.attributes[VOXEL]))
    assert set(cells) == set(views)
    expected = [np.average([f for _, f in views[c]], 0, [w for w, _ in views[c]]) for c in cells]
    np.testing.assert_allclose(found.pts_feat, expected, atol=1e-5)
    assert found.meta["num_points"] == len(cells)


def test_arrays_are_added_as_frames_are(model, demo_frames):
    by_arrays = FeatureMap3D(model, voxel_size=SIZE)
    for frame in demo_frames:
        k, own = frame.color_camera.intrinsics, frame.depth_camera.intrinsics
        seen = by_arrays.add(frame.image, frame.depth_m, k, frame.cam_to_world, depth_K=own)
    assert_alike(by_arrays, filled(model, demo_frames), atol=0)
    assert by_arrays.frames == [0, 1, 2, 3]
    assert 0 < seen < len(by_arrays)


def test_what_can_not_be_added_is_said_and_changes_nothing(model, demo_frames):
    frame, found = demo_frames[0], FeatureMap3D(model, voxel_size=SIZE)
    rgb, depth, k, pose = frame.image, frame.depth_m, frame.color_camera.intrinsics, frame.cam_to_world
    for arguments, message in [
        ((rgb[..., 0], depth, k, pose), r"map frame 0: rgb must be \(H, W, 3\) uint8, got \(162, 216\) uint8"),
        ((rgb, None, k, pose), "map frame 0: no depth, and the voxels of a map are what the depth measures"),
        ((rgb, 0 * depth, k, pose), "map frame 0: no depth pixel holds a measurement from 0.1 to 20 m"),
        ((rgb, 100 + 0 * depth, k, pose), "no depth pixel holds a measurement"),
    ]:
        with pytest.raises(FrameError, match=message):
            found.add(*arguments)
    assert (len(found), found.frames) == (0, [])
    found.add_frame(frame)
    with pytest.raises(FrameError, match=f"map frame {frame.frame_id}: is in the map already"):
        found.add_frame(frame)
    assert found.views.max() == 1
    with pytest.raises(ConfigError, match="has no model to make features with; give one, as model="):
        FeatureMap3D().add(rgb, depth, k, pose)
    tiny = dataclasses.replace(frame, depth_m=np.full_like(depth, 2.0))
    with pytest.raises(FrameError, match=r"points must lie within 1073741824 voxels of 1e-12 m .* larger voxel_size"):
        filled(model, [tiny], voxel_size=1e-12)
    bad = FeatureMap(torch.full((64, 14, 14), np.nan), resize_affine((216, 162), (14, 14)))
    with pytest.raises(FrameError, match="the features hold inf or NaN; try model.precision=fp32"):
        found.see(found.look(frame), bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voxel_size": 0}, "voxel_size=0: expected a number above 0"),
        ({"max_weight": 0}, "max_weight=0: expected a number above 0"),
        ({"max_points": 0}, "max_points=0: expected a number of at least 1"),
        ({"device": "gpu"}, "device=gpu: expected auto, cpu, cuda or cuda:<n>"),
        ({"dtype": "int8"}, "dtype=int8: expected one of float32, float16"),
        ({"points": Points(np.zeros((1, 3)), np.zeros(1, int)), "max_points": 5}, "max_points=5: given points stay"),
    ],
)
def test_options_that_can_not_be_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        FeatureMap3D(**options)


def test_what_was_seen_longest_ago_goes_first(model, demo_frames):
    views = []
    for frame in demo_frames:
        alone = filled(model, [frame])
        views.append(set(map(tuple, alone.points().attributes[VOXEL])))
    most = max(map(len, views)) + 20
    found, last = FeatureMap3D(model, voxel_size=SIZE, max_points=most), {}
    for number, (frame, seen) in enumerate(zip(demo_frames, views, strict=True)):
        found.add_frame(frame)
        last |= dict.fromkeys(seen, number)
        excess = max(0, len(last) - most)
        gone = sorted(last.values())[:excess]
        kept = set(map(tuple, found.points().attributes[VOXEL]))
        assert len(kept) == len(found) == len(last) - excess
        assert seen <= kept <= set(last)
        assert sorted([*gone, *(last[cell] for cell in kept)]) == sorted(last.values())
        last = {cell: when for cell, when in last.items() if cell in kept}
    assert found.dropped > 50
    # Of a voxel that had to go nothing is left: the last frame's own are as in a map of it alone, or seen before, too.
    alone = filled(model, demo_frames[-1:])
    new = found.views == 1
    rows = {tuple(cell): row for row, cell in enumerate(alone.points().attributes[VOXEL])}
    some = [(i, rows[cell]) for i, cell in enumerate(map(tuple, found.points().attributes[VOXEL])) if cell in rows]
    own = [(i, j) for i, j in some if new[i]]
    assert len(own) > 10
    np.testing.assert_allclose(found.features()[[i for i, _ in own]], alone.features()[[j for _, j in own]], atol=1e-6)
    with pytest.raises(ConfigError, match=r"^demo0000_00 frame 0: max_points=9: \d+ voxels come at once; give "):
        filled(model, demo_frames, max_points=9)


@pytest.mark.parametrize("kind", ["voxels", "points"])
def test_a_map_that_was_saved_goes_on_as_if_it_had_never_stopped(model, demo_frames, tmp_path, kind):
    points = Points(unproject_depth(demo_frames[0].depth_m, demo_frames[0].depth_camera.intrinsics,
                                    demo_frames[0].cam_to_world)[0][::7], np.arange(1000))  # fmt: skip
    options = {} if kind == "voxels" else {"points": Points(points.xyz, np.arange(len(points.xyz)))}
    whole, path = filled(model, demo_frames, max_weight=1.5, **options), tmp_path / "map.npz"
    part = filled(model, demo_frames[:2], max_weight=1.5, **options)
    assert part.save(path, {"failed": [{"frame_id": 7, "why": "x"}]}) == path.stat().st_size
    part = FeatureMap3D.load(path, model, max_weight=1.5)
    assert part.frames == [frame.frame_id for frame in demo_frames[:2]]
    for frame in demo_frames[2:]:
        part.add_frame(frame)
    for one, other in ((whole.features(), part.features()), (whole.weight, part.weight), (whole.views, part.views)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.points().xyz, part.points().xyz)
    np.testing.assert_array_equal(whole.down, part.down)
    fused = read_fused(path)  # as all that reads fused scenes does
    assert fused.meta["failed"][0]["frame_id"] == 7
    assert fused.meta["num_seen"] == fused.seen.sum() <= fused.meta["num_points"]
    assert fused.meta["model"]["weights"] == "random"
    assert fused.meta["points"] == ("measured" if kind == "voxels" else "given")
    assert ("rgb" in fused.points.attributes) == (kind == "voxels")


def test_files_that_are_no_map_are_refused(model, text_model, store_of, demo_frames, tmp_path):
    with pytest.raises(DataError, match="map: nothing is in the map yet"):
        FeatureMap3D(model).save(tmp_path / "empty.npz")
    fuse(FuseConfig(str(store_of("grid")), str(tmp_path), formats=[]))
    with pytest.raises(DataError, match=r"demo0000_00.npz: no map that could go on \(no down, dropped, weight_sum, "):
        FeatureMap3D.load(tmp_path / "demo0000_00.npz")
    filled(model, demo_frames[:1]).save(tmp_path / "map.npz")
    with pytest.raises(ConfigError, match=r"its features are of another model, which differs in "):
        FeatureMap3D.load(tmp_path / "map.npz", text_model)
    with pytest.raises(ConfigError, match=r"map.npz: max_points=5: \d+ voxels are there already; give room"):
        FeatureMap3D.load(tmp_path / "map.npz", max_points=5)
    fused = read_fused(tmp_path / "map.npz")
    del fused.points.attributes["seen_last"]
    write_fused(tmp_path / "old.npz", fused)
    with pytest.raises(DataError, match=r"old.npz: no map that could go on \(no seen_last\)"):
        FeatureMap3D.load(tmp_path / "old.npz")


def test_two_maps_become_one(model, demo_frames, tmp_path):
    first, second = filled(model, demo_frames[:2]), filled(model, demo_frames[2:])
    second.save(tmp_path / "second.npz")
    first.merge(FeatureMap3D.load(tmp_path / "second.npz"))
    whole = filled(model, demo_frames)
    assert_alike(first, whole)
    assert first.frames == whole.frames
    np.testing.assert_allclose(first.down, whole.down)
    for other, message in [
        (second, r"frame \d+ is in both maps \(2 are\), and would count twice"),
        (FeatureMap3D(scene_id="kitchen"), "maps of two scenes, demo0000_00 and kitchen, whose worlds differ"),
        (FeatureMap3D(scene_id="demo0000_00"), "the other map is of another model, in arch"),
        (FeatureMap3D(model, scene_id="demo0000_00", voxel_size=0.1), "voxel_size=0.2 here and 0.1 there"),
    ]:
        with pytest.raises(DataError, match=message):
            first.merge(other)
    assert_alike(first, whole)
    given = [Points(np.full((2, 3), x), np.arange(2)) for x in (1.0, 2.0)]
    with pytest.raises(DataError, match="the other map is of other points"):
        FeatureMap3D(points=given[0]).merge(FeatureMap3D(points=given[1]))


def test_a_merged_map_of_given_points_is_that_of_all_frames(model, demo_frames, demo_root):
    mesh = read_points(mesh_path(demo_root, SCENES[0]))
    first, second = (filled(model, frames, points=mesh) for frames in (demo_frames[:1], demo_frames[1:]))
    first.merge(second)
    whole = filled(model, demo_frames, points=mesh)
    np.testing.assert_allclose(first.features(), whole.features(), atol=1e-5)
    np.testing.assert_array_equal(first.views, whole.views)
    np.testing.assert_allclose(first.weight, whole.weight)


def test_texts_are_answered_as_clipfeat_query_answers_them(text_model, demo_frames, tmp_path):
    found = filled(text_model, demo_frames)
    scores = found.query("a chair")
    assert scores.shape == (len(found),)
    np.testing.assert_array_equal(found.query(["a chair"])[:, 0], scores)
    from clipfeat.model.text import load_text_encoder

    vectors = load_text_encoder(text_model.arch, None).encode_text(["a chair", "a table"])
    unit = found.features().astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(found.query(vectors), unit @ vectors.T, atol=1e-5)
    np.testing.assert_allclose(scores, found.query(vectors[0]), atol=1e-6)
    found.save(tmp_path / "map.npz")
    clipfeat.query(tmp_path / "map.npz", "a chair", tmp_path / "answer")
    [path] = (tmp_path / "answer" / "scores").glob("*.npz")
    np.testing.assert_allclose(np.load(path)["scores"][:, 0], found.query("a chair", score="softmax"), atol=1e-5)
    np.testing.assert_array_equal(FeatureMap3D.load(tmp_path / "map.npz").query("a chair"), scores)
    before, now = found.query(vectors), FeatureMap3D(text_model, voxel_size=SIZE)
    for frame in demo_frames:  # asked while it grows: lengths of features that changed are found anew
        now.add_frame(frame)
        now.query("a chair")
    np.testing.assert_array_equal(now.query(vectors), before)


def test_what_can_not_be_asked_is_said(model, text_model, demo_frames):
    found = filled(model, demo_frames[:1])
    with pytest.raises(ConfigError, match="the features of demo0000_00 are of model/head=none, which texts can't be"):
        found.query("a chair")
    with pytest.raises(ConfigError, match="score=softmax: of vectors there is the cosine alone; give Prompts"):
        found.query(np.ones(64), score="softmax")
    with pytest.raises(ConfigError, match="vectors of 5 channels: the features of the map have 64"):
        found.query(np.ones(5))
    with pytest.raises(ConfigError, match=r"demo0000_00: vectors must be \(C,\) or \(P, C\), finite, got"):
        found.query(np.full(64, np.nan))
    with pytest.raises(ConfigError, match="map: nobody said which model made its features; ask by vectors"):
        FeatureMap3D().query("a chair")
    assert FeatureMap3D(text_model).query(np.ones((3, 32))).shape == (0, 3)
    own = FeatureMap3D()
    own.about = text_model.describe()
    with pytest.raises(ConfigError, match="map: nobody said where the weights of its text tower are; give it"):
        own.query("a chair")


def test_points_that_no_frame_sees_score_nothing(model, demo_frames):
    points = Points(np.array([[99.0, 99, 99], demo_frames[0].cam_to_world[:3, 3]]), np.arange(2))
    found = filled(model, demo_frames[:1], points=points)
    assert found.query(np.ones(64)).tolist() == [0, 0]


@pytest.mark.parametrize("most", [None, 1.5])
def test_index_operations_give_what_the_compiled_loop_gives(most):
    rng = np.random.default_rng(0)
    affine = resize_affine((640, 480), (14, 10))
    mergers = [ViewMerger(50, 8, most), DeviceMerger(50, 8, most, torch.device("cpu"))]
    for number in range(30):
        count = 100 if number > 10 else 50
        rows = np.sort(rng.choice(count, 30, replace=False))
        uv, weight = rng.uniform(-5, 640, (30, 2)).astype(np.float32), rng.uniform(0.01, 1, 30).astype(np.float32)
        features = rng.normal(3, 1, (30, 8)).astype(np.float32)
        feature_map = FeatureMap(torch.from_numpy(rng.normal(size=(8, 10, 14))).float(), affine)
        for merger in mergers:
            if len(merger.views) < count:
                merger.make_room(count)
            merger.add_map(feature_map, rows, uv, weight)
            merger.add_points(features, rows, weight)
            if number == 20:
                merger.forget(rows[:5])
    np.testing.assert_allclose(mergers[1].mean.numpy(), mergers[0].mean, atol=1e-5)
    np.testing.assert_allclose(mergers[1].weight, mergers[0].weight)
    np.testing.assert_array_equal(mergers[1].views, mergers[0].views)
    assert mergers[0].weight.max() == 1.5 or most is None


def test_features_in_half_precision_are_those_of_float32_to_its_rounding(model, demo_frames, tmp_path):
    whole, half = (filled(model, demo_frames, dtype=dtype) for dtype in ("float32", "float16"))
    assert half.features().dtype == np.float16
    np.testing.assert_allclose(half.features(), whole.features(), atol=0.02)
    np.testing.assert_allclose(half.query(np.ones(64)), whole.query(np.ones(64)), atol=0.01)
    half.save(tmp_path / "map.npz")
    again = FeatureMap3D.load(tmp_path / "map.npz", dtype="float16")
    np.testing.assert_array_equal(again.features(), half.features())


def test_the_camera_s_rules_and_masks_hold_here_too(model, demo_frames):
    plain = filled(model, demo_frames)
    near = filled(model, demo_frames, rule=VisibilityRule(far=2.0))
    assert 0 < len(near) < len(plain)
    masks = [np.kron(np.indices((9, 12)).sum(0) % 2 + 1, np.ones((18, 18))).astype(np.uint16) for _ in demo_frames]
    frames = [dataclasses.replace(f, mask=mask) for f, mask in zip(demo_frames, masks, strict=True)]
    assert 0 < len(filled(model, frames, mask_rule=MaskRule(4.0))) < len(plain)
    doubted = [dataclasses.replace(f, depth_weight=np.full_like(f.depth_m, 0.25)) for f in demo_frames]
    np.testing.assert_allclose(filled(model, doubted).weight, 0.25 * plain.weight, rtol=1e-5)


def test_frames_of_a_real_recording(office, model):
    dataset = ScanNetDataset(office)
    frames = [dataset.load("scene9000_00", i) for i in dataset.frame_ids("scene9000_00")[:2]]
    found = filled(model, frames, voxel_size=0.05)
    both = (found.views == 2).mean()
    assert both > 0.2  # they overlap by half; with wrong poses next to nothing would
    assert np.linalg.norm(found.features(), axis=1).min() > 0
