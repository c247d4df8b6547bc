"""What is written: feature files, the record of the run, its summary, its report."""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    dataset=["FeatureDataset", "collate_points"],
    files=["read_features", "write_features"],
    grid=["GridFrame"],
    run_folder=["RunFolder"],
    store=["FeatureStore"],
)
