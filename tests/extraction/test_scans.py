import shutil

import pytest
from PIL import Image
from planted import PlantedModel

import clipfeat
from clipfeat.errors import DataError, FrameError
from clipfeat.extraction.scans import Scans, read_run_config

SCENE = "demo0000_00"


@pytest.fixture
def store(scans, tmp_path):
    """A run whose scans a test may damage."""
    overrides = ["vis=none", "report=false", "frames_per_scene=1", "sampling.num_points=50"]
    clipfeat.extract(scans, tmp_path / "run", overrides=overrides, model=PlantedModel(scans, step=8))
    return clipfeat.FeatureStore(tmp_path / "run")


def test_the_frames_behind_the_features_are_read(store, scans):
    frame = Scans(store, read_run_config(store.folder).data).load(SCENE, 0)
    assert frame.image.shape == (162, 216, 3)
    assert frame.depth_m.shape == (96, 128)


def test_scans_that_moved_can_be_named(store, scans, tmp_path):
    moved = shutil.move(scans, tmp_path / "moved")
    with pytest.raises(
        DataError, match=r"^data_root=.*scans: no such folder, the scans of .*run were expected there; "
    ):
        Scans(store, read_run_config(store.folder).data)
    assert Scans(store, read_run_config(store.folder, str(moved)).data).load(SCENE, 0).frame_id == 0


def test_pictures_of_another_size_and_frames_that_are_gone_are_named(store, scans):
    run = read_run_config(store.folder)
    path = scans / SCENE / "color" / "0.jpg"
    Image.open(path).resize((200, 150)).save(path)
    with pytest.raises(DataError, match=r"frame_0.npz: of a picture of 216×162 pixels, but it now has 200×150; give"):
        Scans(store, run.data).load(SCENE, 0)
    path.unlink()
    with pytest.raises(FrameError, match=r"color: holds no frame 0"):
        Scans(store, run.data).load(SCENE, 0)
