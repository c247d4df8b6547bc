"""The scans that a run's features were made of: after the run, for their pictures."""

from pathlib import Path

from clipfeat.config import ExtractConfig
from clipfeat.data import build_dataset
from clipfeat.errors import DataError
from clipfeat.output import FeatureStore
from clipfeat.types import Frame


class Scans:
    """The frames behind the features of a store. Safe to call from several threads.

    Args:
        store: the store.
        run: the configuration that it was extracted with.

    Raises:
        DataError: If the scans are not where the configuration says.
    """

    def __init__(self, store: FeatureStore, run: ExtractConfig):
        root = Path(run.data.root)
        if not root.is_dir():
            raise DataError(
                f"data_root={root}: no such folder, the scans of {store.folder} were expected there; "
                f"give the folder that they are in now"
            )
        self.store = store
        self.dataset = build_dataset(run.data)

    def load(self, scene_id: str, frame_id: int) -> Frame:
        """Reads a frame of the store.

        Raises:
            FrameError: If this frame can't be used.
            DataError: If the scene can't, its features can't be read, or they are of a picture of another size.
        """
        frame = self.dataset.load(scene_id, frame_id)
        camera = self.store.meta(scene_id, frame_id)["camera"]
        before, now = (camera["width"], camera["height"]), (frame.color_camera.width, frame.color_camera.height)
        if before != now:
            raise DataError(
                f"{self.store.path(scene_id, frame_id)}: of a picture of {before[0]}×{before[1]} pixels, but it now "
                f"has {now[0]}×{now[1]}; give the scans that the features were made of, as data_root=…"
            )
        return frame
