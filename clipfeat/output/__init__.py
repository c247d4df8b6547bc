"""What is written: feature files, the record of the run, its summary, its report.

To add a file format, say ``mine``:

1. File: clipfeat/output/mine.py with what writes arrays and their meta into an open file, and what reads them from a
   path: as npz.py has them. What is read is whole or raises, and the arrays can be written to.
2. Row: ``FORMATS`` in files.py, with its import and a suffix of its own.
3. YAML: conf/output/mine.yaml with ``name: mine``. That is ``output=mine``; every reader of runs knows it then.
"""

from clipfeat.system.faces import lazily

__getattr__, __all__ = lazily(
    __name__,
    dataset=["FeatureDataset", "collate_points"],
    files=["read_features", "write_features"],
    grid=["GridFrame"],
    run_folder=["RunFolder"],
    store=["FeatureStore"],
)
