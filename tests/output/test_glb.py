import json
import struct

import numpy as np
import pytest
import trimesh

from clipfeat.output.glb import read_glb, write_glb

XYZ = np.random.default_rng(0).normal(size=(9, 3))
RGB = np.random.default_rng(1).integers(0, 256, (9, 3)).astype(np.uint8)
FACES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.int32)


def told(path):
    content = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIIII", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), 0x4E4F534A)
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def test_a_mesh_is_read_by_trimesh_with_up_turned_to_y(tmp_path):
    size = write_glb(tmp_path / "a.glb", XYZ, RGB, FACES, (0, 0, 1))
    assert size == (tmp_path / "a.glb").stat().st_size
    scene = trimesh.load(tmp_path / "a.glb")
    [mesh] = scene.geometry.values()
    np.testing.assert_allclose(mesh.vertices, XYZ, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, FACES)
    [name] = scene.graph.nodes_geometry
    turned = scene.graph[name][0]
    assert np.linalg.det(turned[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(turned[:3, :3] @ [0, 0, 1], [0, 1, 0], atol=1e-9)


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (0, 1, 0), (1, 0, 0)])
def test_a_cloud_has_its_colours_and_values(tmp_path, up):
    values = np.linspace(-1, 1, 9)
    write_glb(tmp_path / "a.glb", XYZ, RGB, None, up, {"_SCORE": values}, {"prompt": "a chair"})
    [cloud] = trimesh.load(tmp_path / "a.glb").geometry.values()
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(cloud.vertices, XYZ, atol=1e-6)
    header, body = told(tmp_path / "a.glb")
    assert read_glb(tmp_path / "a.glb") == (header, body)
    assert header["asset"]["extras"] == {"prompt": "a chair"}
    [primitive] = header["meshes"][0]["primitives"]

    def array(name, kind, columns):
        accessor = header["accessors"][primitive["attributes"][name]]
        view = header["bufferViews"][accessor["bufferView"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return np.frombuffer(part, kind).reshape(accessor["count"], columns)

    linear = array("COLOR_0", "<u2", 4)[:, :3] / 65535
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(255 * srgb, RGB, atol=0.1)
    np.testing.assert_allclose(array("_SCORE", "<f4", 1)[:, 0], values, atol=1e-6)
    matrix = np.array(header["nodes"][0]["matrix"]).reshape(4, 4).T
    np.testing.assert_allclose(matrix[:3, :3] @ up, [0, 1, 0], atol=1e-9)
