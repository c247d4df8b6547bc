import contextlib
import struct

import numpy as np
import pytest

from clipfeat.system.ply_reader import coordinates, read_ply, triangles

XYZ = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
LABELS = np.array([0, 1, 40, 255, 65535, 7, 7, 7, 3])
TRIANGLES = [(0, 1, 2), (2, 1, 0), (5, 6, 3)]  # 4, 7 and 8 are in none
MIXED = [(0, 1, 2), (3, 2, 1, 0), (5, 6, 3), (0, 1, 2, 5, 6), (1, 2), ()]
FANS = [(0, 1, 2), (3, 2, 1), (3, 1, 0), (5, 6, 3), (0, 1, 2), (0, 2, 5), (0, 5, 6)]

CHARS = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d"}
NEW_NAMES = {"uchar": "uint8", "int": "int32", "float": "float32", "double": "float64", "ushort": "uint16"}


def write(path, order, elements, end="\n"):
    """``elements``: name to (properties, rows); a property is "float x" or "list uchar int a", a row its values."""
    lines = ["ply", f"format {order} 1.0", "comment of nobody", "obj_info none"]
    for name, (properties, rows) in elements.items():
        lines += [f"element {name} {len(rows)}", *(f"property {p}" for p in properties)]
    body = b""
    for properties, rows in elements.values():
        for row in rows:
            values = []
            for p, value in zip(properties, row, strict=True):
                words = p.split()
                values += (
                    [(words[1], len(value)), *((words[2], v) for v in value)]
                    if words[0] == "list"
                    else [(words[0], value)]
                )
            if order == "ascii":
                body += " ".join(f"{v:.17g}" for _, v in values).encode() + end.encode()
            else:
                sign = "<" if order == "binary_little_endian" else ">"
                body += b"".join(struct.pack(sign + CHARS[kind], v) for kind, v in values)
    path.write_bytes("".join(line + end for line in [*lines, "end_header"]).encode() + body)
    return path


def mesh(path, order="binary_little_endian", real="float", count="uchar", corner="int", faces=TRIANGLES, end="\n"):
    vertices = [(*xyz, int(label)) for xyz, label in zip(XYZ, LABELS, strict=True)]
    columns = [f"{real} x", f"{real} y", f"{real} z", "ushort label"]
    elements = {
        "vertex": (columns, vertices),
        "face": ([f"list {count} {corner} vertex_indices"], [(f,) for f in faces]),
    }
    return write(path, order, elements, end)


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize(
    ("count", "corner"), [("uchar", "int"), ("int", "uint"), ("ushort", "short"), ("char", "uchar")]
)
@pytest.mark.parametrize(("faces", "expected"), [(TRIANGLES, TRIANGLES), (MIXED, FANS), ([], [])])
def test_vertices_labels_and_faces_are_those_of_the_file(tmp_path, order, real, count, corner, faces, expected):
    found = read_ply(mesh(tmp_path / "m.ply", order, real, count, corner, faces))
    np.testing.assert_array_equal(coordinates(found), XYZ)
    assert coordinates(found).dtype == np.dtype("f4" if real == "float" else "f8")
    np.testing.assert_array_equal(found["vertex"]["label"], LABELS)
    assert found["vertex"]["label"].dtype == np.uint16
    assert triangles(found).tolist() == [list(f) for f in expected]


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian"])
def test_lines_of_a_header_may_end_as_on_windows(tmp_path, order):
    found = read_ply(mesh(tmp_path / "m.ply", order, end="\r\n"))
    np.testing.assert_array_equal(coordinates(found), XYZ)
    assert triangles(found).tolist() == [list(f) for f in TRIANGLES]


@pytest.mark.parametrize("faces", [TRIANGLES, [(0, 1, 2, 3), (3, 2, 1)]])
def test_seams_of_a_texture_make_no_vertex_double(tmp_path, faces):
    numbers = iter(np.linspace(0, 1, 100))
    rows = [(f, [next(numbers) for _ in range(2 * len(f))], 3) for f in faces]
    properties = ["list uchar int vertex_index", "list uchar float texcoord", "int texnumber"]
    vertices = [tuple(xyz) for xyz in XYZ]
    elements = {
        "camera": (["float view_px", "double view_py"], [(1, 2)]),  # some programs put one in front
        "vertex": (["float x", "float y", "float z"], vertices),
        "face": (properties, rows),
        "edge": (["int vertex1", "int vertex2"], [(0, 1)]),
    }
    found = read_ply(write(tmp_path / "m.ply", "binary_little_endian", elements))
    np.testing.assert_array_equal(coordinates(found), XYZ)
    assert found["face"]["texnumber"].tolist() == [3] * len(faces)
    assert found["edge"]["vertex2"].tolist() == [1]
    wanted = TRIANGLES if faces is TRIANGLES else [(0, 1, 2), (0, 2, 3), (3, 2, 1)]
    assert triangles(found).tolist() == [list(f) for f in wanted]


def test_lists_of_vertices_are_passed_on_the_way(tmp_path):
    vertices = [(*xyz, list(range(n))) for n, xyz in enumerate(XYZ)]
    columns = ["float x", "float y", "float z", "list uchar int seen_by"]
    found = read_ply(write(tmp_path / "m.ply", "binary_big_endian", {"vertex": (columns, vertices)}))
    np.testing.assert_array_equal(coordinates(found), XYZ)
    assert found["vertex"]["seen_by"].counts.tolist() == list(range(9))
    assert found["vertex"]["seen_by"].values.tolist() == [i for n in range(9) for i in range(n)]


def test_strips_become_triangles_that_face_the_same_way(tmp_path):
    vertices = [tuple(xyz) for xyz in XYZ]
    elements = {
        "vertex": (["float x", "float y", "float z"], vertices),
        "tristrips": (["list int int vertex_indices"], [([0, 1, 2, 3, -1, 4, 5, 6],)]),
    }
    found = read_ply(write(tmp_path / "m.ply", "binary_little_endian", elements))
    assert triangles(found).tolist() == [[0, 1, 2], [2, 1, 3], [4, 5, 6]]


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("faces", [TRIANGLES, MIXED[:4]])
def test_a_cut_file_is_never_taken_for_a_whole_one(tmp_path, order, faces):
    path = mesh(tmp_path / "m.ply", order, faces=faces)
    content = path.read_bytes()
    for kept in range(0, len(content) - 2, 3):  # of text, all but the last line's end, and its last number
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError):
            triangles(read_ply(path))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_damage_ends_in_anything_but_a_valueerror(tmp_path):
    rng = np.random.default_rng(0)
    for order in ("ascii", "binary_little_endian"):
        path = mesh(tmp_path / "m.ply", order, faces=MIXED)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(100):
            bad = content.copy()
            bad[rng.integers(0, len(bad), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(bad.tobytes())
            with contextlib.suppress(ValueError):
                found = read_ply(path)
                coordinates(found)
                triangles(found)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n", "names something of vertex twice"),
        ("format ascii 1.0\nelement vertex 1\nelement vertex 1\n", "names something of vertex twice"),
        ("format ascii 1.0\nelement vertex 1\nproperty half x\n", "says 'property half x', which means nothing"),
        ("format ascii 1.0\nproperty float x\n", "says 'property float x', which means nothing"),
        ("format gzip 1.0\n", "says 'format gzip 1.0', which means nothing"),
        ("element vertex 1\nproperty float x\n", "has no format, expected one of ascii, binary_little_endian"),
        ("format ascii 1.0\nelement face 1\nproperty list float int a\n", "means nothing"),
    ],
)
def test_headers_that_mean_nothing_are_refused(tmp_path, header, message):
    (tmp_path / "m.ply").write_text(f"ply\n{header}end_header\n0 0 0\n")
    with pytest.raises(ValueError, match=message):
        read_ply(tmp_path / "m.ply")


def test_faces_without_corners_are_refused(tmp_path):
    elements = {"vertex": (["float x", "float y", "float z"], [(0, 0, 0)]), "face": (["int label"], [(1,)])}
    with pytest.raises(ValueError, match="its faces have no list vertex_indices or vertex_index, but label"):
        triangles(read_ply(write(tmp_path / "m.ply", "ascii", elements)))
