import numpy as np
import pytest
import trimesh

from clipfeat.output.ply import write_ply
from clipfeat.sampling.point_files import read_faces, read_points

XYZ = np.random.default_rng(0).normal(size=(5, 3))
RGB = np.arange(15, dtype=np.uint8).reshape(5, 3) * 17
FACES = np.array([[0, 1, 2], [4, 3, 2]])


@pytest.mark.parametrize("faces", [None, FACES])
def test_a_ply_comes_back(tmp_path, faces):
    path = tmp_path / "new" / "a.ply"
    assert write_ply(path, XYZ, RGB, faces, ["weights=random", "PCA of 192 channels"]) == path.stat().st_size
    points = read_points(path)
    np.testing.assert_allclose(points.xyz, XYZ, atol=1e-6)
    np.testing.assert_array_equal(points.attributes["rgb"], RGB)
    header = path.read_bytes().split(b"end_header")[0].decode().splitlines()
    assert header[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "comment weights=random" in header
    assert "comment PCA of 192 channels" in header
    found = read_faces(path)
    if faces is None:
        assert found is None
        assert isinstance(trimesh.load(path), trimesh.PointCloud)
    else:
        np.testing.assert_array_equal(found, faces)
        assert found.dtype == np.int32


def test_a_comment_can_not_break_the_header(tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, XYZ, RGB, None, ["weights=/a/ä.pt\nelement vertex 9", "element vertex 8"])
    assert (
        b"comment weights=/a/?.pt element vertex 9\ncomment element vertex 8\nelement vertex 5\n" in path.read_bytes()
    )
    np.testing.assert_array_equal(read_points(path).attributes["rgb"], RGB)
