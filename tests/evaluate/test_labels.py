import numpy as np
import pytest
import trimesh
from PIL import Image

from clipfeat.data.config import DataConfig, ScanNetConfig
from clipfeat.data.label_ids import label_set
from clipfeat.errors import ConfigError, DataError
from clipfeat.evaluate.config import EvaluateConfig
from clipfeat.evaluate.frames import LabelPictures
from clipfeat.evaluate.labels import classes_of_labels
from clipfeat.sampling.config import MeshSamplingConfig, SamplingConfig
from clipfeat.sampling.locate import Located
from clipfeat.types import Camera, Frame, Picture, Points

KEYS = [("s0", 0)]


def of_pictures(folder, stated=None):
    pattern = f"{folder}/{{scene}}-{{frame}}.png"
    return classes_of_labels(EvaluateConfig(ScanNetConfig(root="x"), labels=pattern, labels_ids=stated), KEYS)


def of_mesh(path, stated=None):
    sampling = MeshSamplingConfig(points_file=str(path), labels_file=str(path))
    cfg = EvaluateConfig(ScanNetConfig(root="x"), labels=None, labels_ids=stated, sampling=sampling)
    return classes_of_labels(cfg, KEYS)


def write_mesh(path, ids, colors):
    mesh = trimesh.Trimesh(np.eye(len(ids), 3), vertex_colors=colors, process=False)
    mesh.vertex_attributes["label"] = np.array(ids, np.uint16)
    path.write_bytes(mesh.export(file_type="ply"))
    return path


def write_picture(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / "s0-0.png")
    return folder


def test_scannets_own_labels_of_a_mesh_are_nyu40s(tmp_path):
    ids = [1, 2, 5, 0]
    colors = [label_set("nyu40").colors[i] for i in ids[:3]] + [(0, 0, 0)]
    mesh = write_mesh(tmp_path / "s0_vh_clean_2.labels.ply", ids, colors)
    assert of_mesh(mesh) is label_set("nyu40")
    assert of_mesh(mesh, "scannet20") is label_set("scannet20")
    with pytest.raises(DataError, match="labels_ids=scannet, but these labels are nyu40's"):
        of_mesh(mesh, "scannet")


def test_labels_without_a_sign_are_refused_until_it_is_said(tmp_path):
    mesh = write_mesh(tmp_path / "m.ply", [1, 2, 5], [(9, 9, 9)] * 3)
    with pytest.raises(DataError, match=r"m.ply: whose ids these labels are can't be told from them"):
        of_mesh(mesh)
    assert of_mesh(mesh, "mpcat40") is label_set("mpcat40")
    eight = write_picture(tmp_path / "label", np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match="s0-0.png: whose ids these labels are can't be told"):
        of_pictures(eight)
    assert of_pictures(eight, "nyu40") is label_set("nyu40")
    raw = write_picture(tmp_path / "label-filt", np.ones((4, 4), np.uint16))
    assert of_pictures(raw) is label_set("scannet")
    assert of_pictures(raw, "nyu40") is label_set("nyu40")  # converted where they lay


def test_instances_are_no_classes(tmp_path):
    folder = write_picture(tmp_path / "instance-filt", np.ones((4, 4), np.uint16))
    for stated in (None, "scannet"):
        with pytest.raises(DataError, match="instance-filt/s0-0.png: numbers of instances, not of classes"):
            of_pictures(folder, stated)


def test_points_that_a_data_set_stores_are_labelled_by_its_ids():
    def of(layout, stated=None):
        cfg = EvaluateConfig(DataConfig(layout, "x"), labels=None, labels_ids=stated)
        cfg.sampling = SamplingConfig("frame_points")
        return classes_of_labels(cfg, KEYS)

    assert of("scannet200_mv") is label_set("scannet")
    assert of("mine", "nyu40") is label_set("nyu40")
    with pytest.raises(DataError, match="data=mine: whose ids"):
        of("mine")


def test_pictures_of_8_bits_are_read_as_they_are(tmp_path):
    values = np.arange(16, dtype=np.uint8).reshape(4, 4)
    pictures = LabelPictures(f"{write_picture(tmp_path, values)}/{{scene}}-{{frame}}.png")
    uv = np.array([(0, 0), (3, 1), (2, 3)], np.float32)
    frame = Frame("s0", 0, Picture.of(np.zeros((4, 4, 3), np.uint8)), None, Camera(np.eye(3), 4, 4), None, np.eye(4))
    points = Points(np.zeros((3, 3)), np.arange(3))
    labels, _ = pictures(frame, Located(points, uv, np.ones(3, np.float32), np.zeros(3, np.uint8)))
    assert labels.tolist() == [0, 7, 14]


def test_a_set_that_is_not_known_is_named():
    with pytest.raises(ConfigError, match="labels_ids=nyu13: expected one of scannet, scannet200, nyu40"):
        EvaluateConfig(ScanNetConfig(root="x"), labels_ids="nyu13")
