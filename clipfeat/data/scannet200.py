"""ScanNet200's classes: the raw ids that label pictures, meshes and masks hold, their names, and how common they are.

The table is ``scannet200.csv``. It lists facts of the benchmark (Rozenberszki et al. 2022), no text or picture of it;
ScanNet's own data stay under its terms of use. It is made of a table with more columns, one line a class, by::

    cut -d, -f1-3 labels/scannet200_classes.csv > clipfeat/data/scannet200.csv
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = ("head", "common", "tail")
"""Of the classes, by how many surface points of ScanNet they have: 66, 68 and 66 of them."""

UNLABELLED = -1
"""In place of a class, where a label is 0 or an id that is not ScanNet200's."""


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Classes, in the order of their ids.

    Attributes:
        ids: (K,) int64, what files hold.
        names: K names.
        groups: K of ``GROUPS``.
    """

    ids: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def classes_of(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The class, 0 to K - 1, of each label of any shape; ``UNLABELLED`` where it is no id of a class."""
        wanted = labels.astype(np.int64, copy=False)
        found = np.searchsorted(self.ids, wanted).clip(max=len(self.ids) - 1)
        return np.where(self.ids[found] == wanted, found, UNLABELLED)

    def in_group(self, group: str) -> NDArray[np.bool_]:
        """(K,) which classes are of this group."""
        return np.array([own == group for own in self.groups])


@cache
def scannet200() -> LabelSet:
    """The 200 classes."""
    with (Path(__file__).parent / "scannet200.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["id"]))
    ids = np.array([int(row["id"]) for row in rows], np.int64)
    ids.setflags(write=False)
    return LabelSet(ids, tuple(row["name"] for row in rows), tuple(row["group"] for row in rows))
