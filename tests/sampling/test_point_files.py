import numpy as np
import pytest
import trimesh

from clipfeat.errors import DataError
from clipfeat.sampling.point_files import read_faces, read_points

XYZ = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def write_ply(path, xyz=XYZ, *, ascii_ply=False, faces=True):
    rgb = np.random.default_rng(1).integers(0, 255, (len(xyz), 4), dtype=np.uint8)
    faces = np.arange(len(xyz) // 3 * 3).reshape(-1, 3) if faces else None
    if faces is None:
        geometry = trimesh.PointCloud(xyz, colors=rgb)
    else:
        geometry = trimesh.Trimesh(xyz, faces, vertex_colors=rgb, process=False)
        geometry.vertex_attributes["label"] = np.arange(len(xyz)).astype(np.uint16)
    path.write_bytes(trimesh.exchange.ply.export_ply(geometry, encoding="ascii" if ascii_ply else "binary"))
    return rgb


@pytest.mark.parametrize("ascii_ply", [False, True])
def test_a_mesh_s_vertices_colours_and_labels_in_the_file_s_order(tmp_path, ascii_ply):
    rgb = write_ply(tmp_path / "m.ply", ascii_ply=ascii_ply)
    points = read_points(tmp_path / "m.ply")
    np.testing.assert_allclose(points.xyz, XYZ, atol=1e-6)
    np.testing.assert_array_equal(points.attributes["rgb"], rgb[:, :3])
    np.testing.assert_array_equal(points.attributes["label"], np.arange(50))
    assert points.idx.tolist() == list(range(50))


@pytest.mark.parametrize("before", ["", "diffuse_"])
@pytest.mark.parametrize(("kind", "scale"), [("<f4", 1 / 255), ("<f8", 1 / 255), ("<f4", 1), ("<i4", 1), ("<u2", 257)])
def test_colours_are_0_to_255_however_the_file_has_them(tmp_path, before, kind, scale):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 3))
    rgb[0] = 255
    names = {"<f4": "float", "<f8": "double", "<i4": "int", "<u2": "ushort"}
    header = f"element vertex 50\n{COORDINATES.decode()}" + "".join(
        f"property {names[kind]} {before}{color}\n" for color in ("red", "green", "blue")
    )
    rows = np.zeros(50, [("xyz", "<f4", 3), ("rgb", kind, 3)])
    rows["rgb"] = rgb * scale
    (tmp_path / "m.ply").write_bytes(ply(header.encode(), rows.tobytes()))
    found = read_points(tmp_path / "m.ply").attributes
    assert set(found) == {"rgb"}
    assert found["rgb"].dtype == np.uint8
    np.testing.assert_array_equal(found["rgb"], rgb)
    np.savez(tmp_path / "c.npz", xyz=XYZ, rgb=rows["rgb"])
    np.testing.assert_array_equal(read_points(tmp_path / "c.npz").attributes["rgb"], rgb)


@pytest.mark.parametrize("color", [-1, 70000, np.nan])
def test_colours_that_mean_nothing_are_refused(tmp_path, color):
    np.savez(tmp_path / "c.npz", xyz=XYZ, rgb=np.full((50, 3), color))
    with pytest.raises(DataError, match=r"c.npz: colours of (int64|float64) from .* expected 0 to 255, or fractions"):
        read_points(tmp_path / "c.npz")


def test_doubled_vertices_stay(tmp_path):
    write_ply(tmp_path / "m.ply", np.concatenate([XYZ[:30], XYZ[:30]]))
    assert len(read_points(tmp_path / "m.ply").idx) == 60


def test_a_cloud_without_faces_and_an_npz(tmp_path):
    write_ply(tmp_path / "c.ply", faces=False)
    assert read_points(tmp_path / "c.ply").xyz.shape == (50, 3)
    np.savez(tmp_path / "c.npz", points=XYZ, instance=np.arange(50), note=np.array("x"), other=np.zeros(3))
    points = read_points(tmp_path / "c.npz")
    np.testing.assert_array_equal(points.xyz, XYZ)
    assert set(points.attributes) == {"instance"}


def test_faces_are_rows_of_the_vertices(tmp_path):
    write_ply(tmp_path / "m.ply", np.concatenate([XYZ[:30], XYZ[:30]]))
    np.testing.assert_array_equal(read_faces(tmp_path / "m.ply"), np.arange(60).reshape(-1, 3))
    write_ply(tmp_path / "c.ply", faces=False)
    assert read_faces(tmp_path / "c.ply") is None
    assert read_faces(tmp_path / "c.npz") is None
    good = (tmp_path / "m.ply").read_bytes()
    (tmp_path / "m.ply").write_bytes(good[:-4] + np.array(60, "<i4").tobytes())
    with pytest.raises(DataError, match="m.ply: a face names a vertex that is not there"):
        read_faces(tmp_path / "m.ply")
    (tmp_path / "m.ply").write_bytes(good[:200])
    with pytest.raises(DataError, match="m.ply: its header has no end; copy or export it again"):
        read_faces(tmp_path / "m.ply")


def ply(header, body=b""):
    return b"ply\nformat binary_little_endian 1.0\n" + header + b"end_header\n" + body


COORDINATES = b"property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY file"),
        (b"solid stl", "not a PLY file"),
        (ply(b""), "holds no vertices, expected a mesh or a point cloud"),
        (ply(b"element vertex 0\n" + COORDINATES), "holds no vertices"),
        (
            ply(b"element vertex 4000000000000\n" + COORDINATES, b"0" * 120),
            "declares 4000000000000 vertices, more than its",
        ),
        (ply(b"element vertex " + b"9" * 5000 + b"\n" + COORDINATES), "more than its"),
        (ply(b"element vertex\n" + COORDINATES), "its header says 'element vertex', which means nothing; copy"),
        (ply(b"element vertex x\n" + COORDINATES), "its header says 'element vertex x', which means nothing"),
        (
            ply(b"element vertex 1\n" + COORDINATES + b"element face 3000000000\n", b"0" * 12),
            "declares 3000000000 elements face, more than its",
        ),
        (
            ply(b"element vertex 2\nproperty float x\nproperty float y\n", b"0" * 16),
            "its vertices have no z; copy",
        ),
        (ply(b"element vertex 40\n" + COORDINATES, b"0" * 120), "it is cut off: it declares 40 rows of vertex"),
        (ply(b"element vertex 10\nproperty float a\n", b"0" * 40), "its vertices have no x, y, z"),
        (
            ply(b"element vertex 2\n" + COORDINATES, np.full(6, np.nan, "<f4").tobytes()),
            "2 of 2 vertices hold inf or NaN",
        ),
        (
            ply(b"element vertex 2\n" + COORDINATES, b"\x01\x00\xa0\x7f" * 6),  # NaN that signals
            "2 of 2 vertices hold inf or NaN",
        ),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_ply_files_are_named(tmp_path, content, message):
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad.ply: .*({message})"):
        read_points(tmp_path / "bad.ply")


def test_other_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match="none.ply: no such file, a mesh or point cloud was expected"):
        read_points(tmp_path / "none.ply")
    with pytest.raises(DataError, match="m.obj: points are read from .ply or .npz"):
        read_points(tmp_path / "m.obj")
    (tmp_path / "bad.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match="bad.npz: not a readable npz file"):
        read_points(tmp_path / "bad.npz")
    np.savez(tmp_path / "text.npz", xyz=np.zeros((2, 3)), name=np.array(["a", "b"]))
    with pytest.raises(DataError, match="text.npz: name is of <U1, expected numbers; leave it out or make it again"):
        read_points(tmp_path / "text.npz")
    np.savez(tmp_path / "scalar.npz", xyz=np.array(3.0))
    with pytest.raises(DataError, match=r"scalar.npz: holds no vertices \(shape \(\)\)"):
        read_points(tmp_path / "scalar.npz")
    np.savez(tmp_path / "far.npz", xyz=np.array([[0, 0, 0], [0, -1e300, 0]]))
    with pytest.raises(DataError, match=r"far.npz: 1 of 2 vertices are farther than 1e\+09 m away; damaged\?"):
        read_points(tmp_path / "far.npz")
    np.savez(tmp_path / "none.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="none.npz: holds none of the arrays xyz, points, vertices, but a"):
        read_points(tmp_path / "none.npz")
    np.savez(tmp_path / "empty.npz", xyz=np.zeros((0, 3)))
    with pytest.raises(DataError, match="empty.npz: holds no vertices"):
        read_points(tmp_path / "empty.npz")
