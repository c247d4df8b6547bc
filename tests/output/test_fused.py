import numpy as np
import pytest
import torch

from clipfeat.errors import DataError
from clipfeat.output.files import read_meta
from clipfeat.output.fused import FusedScene, read_fused, seen_counts, seen_in_short, write_fused, write_openscene
from clipfeat.types import Points


def scene_of(faces=True, dtype=np.float32, attributes=None):
    rng = np.random.default_rng(0)
    views = np.array([2, 0, 1, 7, 0], np.int32)
    return FusedScene(
        points=Points(
            rng.normal(size=(5, 3)), np.arange(5), {"label": np.arange(5, dtype=np.uint16)} | (attributes or {})
        ),
        pts_feat=(rng.normal(size=(5, 6)) * (views > 0)[:, None]).astype(dtype),
        views=views,
        weight=views.astype(np.float32) / 3,
        faces=np.array([[0, 1, 2], [2, 3, 4]], np.int32) if faces else None,
        meta={"scene_id": "s", "model": {"weights": "random"}},
    )


@pytest.mark.parametrize("faces", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_scene_comes_back(tmp_path, faces, dtype):
    scene, path = scene_of(faces, dtype), tmp_path / "fused" / "s.npz"
    assert write_fused(path, scene) == path.stat().st_size
    found = read_fused(str(path))
    for key in ("pts_feat", "views", "weight"):
        np.testing.assert_array_equal(getattr(found, key), getattr(scene, key))
        assert getattr(found, key).dtype == getattr(scene, key).dtype
    np.testing.assert_allclose(found.points.xyz, scene.points.xyz, atol=1e-6)
    np.testing.assert_array_equal(found.points.idx, scene.points.idx)
    np.testing.assert_array_equal(found.points.attributes["label"], np.arange(5))
    assert (found.faces is not None) == faces
    assert found.meta.items() >= scene.meta.items()
    assert read_meta(path) == found.meta
    assert found.seen.tolist() == [True, False, True, True, False]


def test_an_attribute_never_takes_the_place_of_an_array(tmp_path):
    scene = scene_of(False, attributes={"weight": np.full(5, 9.0), "faces": np.zeros((5, 3))})
    write_fused(tmp_path / "s.npz", scene)
    found = read_fused(tmp_path / "s.npz")
    np.testing.assert_array_equal(found.weight, scene.weight)
    assert found.faces is None
    assert set(found.points.attributes) == {"label"}


def test_what_is_no_fused_scene_is_named(tmp_path):
    path = tmp_path / "s.npz"
    with pytest.raises(DataError, match=r"s.npz: no such file"):
        read_fused(path)
    np.savez(path, xyz=np.zeros((3, 3)), meta=np.array('{"schema_version": 1}'))
    with pytest.raises(DataError, match=r"s.npz: no fused scene \(no pts_feat, views, weight, pts_idx\); give a file"):
        read_fused(path)
    write_fused(path, scene_of())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"s.npz: not a whole feature file"):
        read_fused(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_openscene_s_file_is_read_without_unpickling_and_holds_the_points_that_are_seen(tmp_path, dtype):
    scene, path = scene_of(dtype=dtype), tmp_path / "s.pt"
    assert write_openscene(path, scene.pts_feat, scene.seen) == path.stat().st_size
    found = torch.load(path, weights_only=True)
    assert found.keys() == {"feat", "mask_full"}
    assert found["mask_full"].tolist() == scene.seen.tolist()
    assert found["feat"].dtype == torch.half
    np.testing.assert_array_equal(found["feat"].numpy(), scene.pts_feat[scene.seen].astype(np.float16))


def test_views_are_averaged_over_the_points_that_are_seen():
    one, other = seen_counts(np.array([2, 0, 1, 0], np.int32)), seen_counts(np.array([6, 0], np.int32))
    assert seen_in_short([one]) == "4 points, 50.0 % seen, in 1.5 views on average"
    assert seen_in_short([one, other]) == "6 points, 50.0 % seen, in 3.0 views on average"
    assert seen_in_short([]).startswith("0 points, 0.0 % seen")
