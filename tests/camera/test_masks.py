import json

import numpy as np
import pytest

from clipfeat.camera.masks import MaskRule, apply_mask, edge_distance, read_instance_mapping
from clipfeat.errors import ConfigError
from clipfeat.types import PointStatus, Projection


def mask_of():
    """Instance 1 left of column 20, instance 2 from 20 to 39, nothing from 40 on."""
    mask = np.zeros((30, 60), np.uint16)
    mask[:, :20] = 1
    mask[:, 20:40] = 2
    return mask


def points_at(columns, row=15.0):
    n = len(columns)
    uv = np.stack((np.asarray(columns, np.float32), np.full(n, row, np.float32)), 1)
    return Projection(uv, np.ones(n, np.float32), np.zeros(n, np.uint8), np.ones(n, np.float32))


def test_distance_to_the_edge_equals_a_slow_twin():
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 4, (5, 6)), np.ones((7, 5), int)).astype(np.uint16)
    found = edge_distance(mask)
    for v in range(0, 35, 3):
        for u in range(0, 30, 2):
            rows, columns = np.nonzero(mask != mask[v, u])
            exact = np.hypot(rows - v, columns - u).min()
            assert exact - 1.0 <= found[v, u] <= exact + 1.0
            assert (found[v, u] == 1) == (exact == 1)
    assert np.isinf(edge_distance(np.ones((4, 4), np.uint16))).all()


def test_points_near_an_edge_are_dropped_and_zero_says_nothing():
    seen = points_at([0, 17, 18, 19, 20, 21, 22, 38, 39, 40, 41, 59])
    apply_mask(seen, mask_of(), MaskRule(edge_px=3), "s")
    masked = (seen.status == PointStatus.MASKED).tolist()
    #                 0      17     18    19    20    21    22     38    39    40     41     59
    assert masked == [False, False, True, True, True, True, False, True, True, False, False, False]
    assert (seen.conf_2d == ~np.array(masked)).all()


def test_or_they_lose_confidence():
    seen = points_at([10, 18, 19, 50])
    apply_mask(seen, mask_of(), MaskRule(edge_px=4, edge_weight=True), "s")
    assert (seen.status == PointStatus.VISIBLE).all()
    np.testing.assert_allclose(seen.conf_2d, [1.0, 0.5, 0.25, 1.0])


def test_points_of_another_instance_are_dropped():
    own = np.array([1, 2, 0, 2, 2])
    seen = points_at([5, 5, 5, 30, 50])  # the last on mask 0
    apply_mask(seen, mask_of(), MaskRule(same_ids=True), "s", own)
    assert (seen.status == PointStatus.MASKED).tolist() == [False, True, False, False, False]
    seen = points_at([5, 5, 30])
    apply_mask(seen, mask_of(), MaskRule(mapping={"s": {7: 1, 8: 2}}), "s", np.array([7, 8, 9]))
    assert (seen.status == PointStatus.MASKED).tolist() == [False, True, False]  # 9 is not in the mapping
    seen = points_at([5, 5])
    apply_mask(seen, mask_of(), MaskRule(mapping={"s": {7: 1}}), "another scene", np.array([7, 8]))
    assert (seen.status == PointStatus.VISIBLE).all()


def test_only_visible_points_are_touched():
    seen = points_at([19, 19])
    seen.status[1] = PointStatus.OCCLUDED
    apply_mask(seen, mask_of(), MaskRule(edge_px=3), "s")
    assert seen.status.tolist() == [PointStatus.MASKED, PointStatus.OCCLUDED]


def test_the_mapping_file(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"scene0000_00": {"3": 7}}))
    assert read_instance_mapping(path) == {"scene0000_00": {3: 7}}
    with pytest.raises(ConfigError, match=r"camera.mask_instances=.*none.json: no such file"):
        read_instance_mapping(tmp_path / "none.json")
    for content in ("{", "[1]", '{"a": 3}', '{"a": {"x": 1}}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match="map.json: expected JSON such as"):
            read_instance_mapping(path)
