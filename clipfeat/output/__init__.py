"""What is written: feature files, the record of the run, its summary."""

from clipfeat.output.cache import CACHES, MapCache, build_cache
from clipfeat.output.dataset import FeatureDataset, collate_points
from clipfeat.output.files import FORMATS, read_features, write_features
from clipfeat.output.grid import GridFrame
from clipfeat.output.run_folder import RunFolder
from clipfeat.output.store import FeatureStore

__all__ = [
    "CACHES",
    "FORMATS",
    "FeatureDataset",
    "FeatureStore",
    "GridFrame",
    "MapCache",
    "RunFolder",
    "build_cache",
    "collate_points",
    "read_features",
    "write_features",
]
