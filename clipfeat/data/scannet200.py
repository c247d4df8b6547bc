"""ScanNet200's classes: the raw ids that label pictures, meshes and masks hold, their names, and how common they are.

The table is ``scannet200.csv``. It lists facts of the benchmark (Rozenberszki et al. 2022), no text or picture of it;
ScanNet's own data stay under its terms of use. Other sets of ids, and how files tell them: ``label_ids.py``.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import DataError

GROUPS = ("head", "common", "tail")
"""Of the classes, by how many surface points of ScanNet they have: 66, 68 and 66 of them."""

UNLABELLED = -1
"""In place of a class, where a label is 0 or an id that is no class."""

Color = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Classes, in the order of their ids.

    Attributes:
        ids: (K,) int64, what files hold.
        names: K names.
        groups: K words, such as those of ``GROUPS``; empty where the set has none.
        title: what messages call the set.
        highest: no id of the set is higher, classes or not; None where that is not known.
        colors: RGB of those classes that the data set's own files paint, by id.
    """

    ids: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    title: str = "ScanNet200"
    highest: int | None = None
    colors: dict[int, Color] | None = None

    def classes_of(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The class, 0 to K - 1, of each label of any shape; ``UNLABELLED`` where it is no id of a class."""
        wanted = labels.astype(np.int64, copy=False)
        found = np.searchsorted(self.ids, wanted).clip(max=len(self.ids) - 1)
        return np.where(self.ids[found] == wanted, found, UNLABELLED)

    def by_id(self) -> dict[int, str]:
        """The names by their ids."""
        return dict(zip(self.ids.tolist(), self.names, strict=True))

    def in_group(self, group: str) -> NDArray[np.bool_]:
        """(K,) which classes are of this group."""
        return np.array([own == group for own in self.groups])


@cache
def scannet200() -> LabelSet:
    """The 200 classes."""
    return read_label_set(Path(__file__).parent / "scannet200.csv", "ScanNet200")


def read_label_set(path: Path, title: str, highest: int | None = None, group: str | None = None) -> LabelSet:
    """A table with a header: ``id,name``, and where they are there ``group`` and ``r,g,b``.

    Args:
        path: CSV file.
        title: see ``LabelSet``.
        highest: see ``LabelSet``.
        group: only the rows of this group; None takes all.

    Raises:
        DataError: If it can't be read, has no rows, or names an id twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.DictReader(file) if group is None or row["group"] == group]
        rows.sort(key=lambda row: int(row["id"]))
        ids = np.array([int(row["id"]) for row in rows], np.int64)
        names = tuple(row["name"].strip() for row in rows)
        colors = {int(row["id"]): (int(row["r"]), int(row["g"]), int(row["b"])) for row in rows if row.get("r")}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected a CSV file with the columns id,name") from error
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: no table of labels ({error}), expected a CSV file with the columns id,name"
        ) from error
    if not rows or (np.diff(ids) == 0).any():
        raise DataError(f"{path}: {'an id comes twice' if rows else 'holds no class'}, expected lines of id,name")
    ids.setflags(write=False)
    return LabelSet(ids, names, tuple(row.get("group") or "" for row in rows), title, highest, colors)
