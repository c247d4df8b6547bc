"""What is written: feature files, the record of the run, its summary."""

from clipfeat.output.files import FORMATS, read_features, write_features
from clipfeat.output.run_folder import RunFolder

__all__ = ["FORMATS", "RunFolder", "read_features", "write_features"]
