"""What a run's features were made of, after the run: its configuration, and its scans."""

from pathlib import Path
from typing import Any

from clipfeat.data.config import DataConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.errors import ConfigError, DataError, OutputError
from clipfeat.extraction.config import ExtractConfig, extract_config
from clipfeat.output.folders import read_config
from clipfeat.output.store import FeatureStore
from clipfeat.types import Frame


class Scans:
    """The frames behind the features of a store. Safe to call from several threads.

    Args:
        store: the store.
        data: where the configuration of its run says that they are.

    Raises:
        DataError: If the scans are not where the configuration says.
    """

    def __init__(self, store: FeatureStore, data: DataConfig):
        root = Path(data.root)
        if not root.is_dir():
            raise DataError(
                f"data_root={root}: no such folder, the scans of {store.folder} were expected there; "
                f"give the folder that they are in now"
            )
        self.store = store
        self.dataset = build_dataset(data)

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


def read_run_config(folder: Path, data_root: str | None = None) -> ExtractConfig:
    """The configuration of the run of clipfeat-extract whose results a folder holds.

    Args:
        folder: the run's output_dir.
        data_root: where the scans are now, if they moved: it takes the old root's place in all paths.

    Raises:
        DataError: If there is none, or it can't be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise DataError(f"{path}: no such file, the configuration of the run; give the output_dir of clipfeat-extract")
    try:
        config = read_config(folder)
        if data_root is not None:
            config = _moved(config, config["data"]["root"], data_root)
        return extract_config(config)
    except (KeyError, TypeError, OutputError, ConfigError) as error:
        raise DataError(f"{path}: not the configuration of a run of this clipfeat ({error})") from error


def _moved(node: Any, before: str, now: str) -> Any:
    """The same, with the paths below a folder below another one."""
    if isinstance(node, dict):
        return {key: _moved(value, before, now) for key, value in node.items()}
    if isinstance(node, str) and (node + "/").startswith(before.rstrip("/") + "/"):
        return now + node[len(before.rstrip("/")) :]
    return node
