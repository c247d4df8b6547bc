"""Which set of ids labels are of. The same number is another thing in each: 2 is a chair to ScanNet, a floor to NYU40.

===========  ===========================================================================================================
scannet      ScanNet's raw ids, of which ScanNet200's 200 are classes: ``label-filt/`` and ``label/`` pictures of 16
             bits, ESAM's ``semantic_mask``, the rendered demo
nyu40        the 40 classes of Gupta et al. (CVPR 2013): ``_vh_clean_2.labels.ply``, and ScanNet's 25k frames, whose
             label pictures have 8 bits
scannet20    those 20 of NYU40's ids that ScanNet's benchmark judges
mpcat40      Matterport3D's 40 categories, ``metadata/mpcat40.tsv`` of its repository
<file>.csv   any other (ScanNet++, Replica): a table with the columns id and name
===========  ===========================================================================================================

The tables are ``scannet200.csv``, ``nyu40.csv`` and ``mpcat40.csv``: ids and names, and the colours in which ScanNet's
own files paint a class, by which such a file tells its ids. What is not said and can't be found out is refused.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.data.label_sets import LABEL_IDS
from clipfeat.data.scannet200 import LabelSet, read_label_set, scannet200
from clipfeat.errors import DataError

SAME_IDS = {"scannet200": "scannet", "scannet20": "nyu40"}
"""A set whose ids are those of another one."""

_TELLING = ("scannet", "nyu40")
"""Sets whose colours tell them apart."""

_VOID = 255
"""What pictures of 8 bits hold where nothing is known."""


@cache
def label_set(name: str) -> LabelSet:
    """The set of this name, or of this CSV file.

    Raises:
        DataError: If the file is no such table.
    """
    folder = Path(__file__).parent
    if name in ("scannet", "scannet200"):
        return scannet200()
    if name == "nyu40":
        return read_label_set(folder / "nyu40.csv", "NYU40", 40)
    if name == "scannet20":
        return read_label_set(folder / "nyu40.csv", "ScanNet's benchmark", 40, "scannet20")
    if name == "mpcat40":
        return read_label_set(folder / "mpcat40.csv", "mpcat40", 41)
    return read_label_set(Path(name), name)


def ids_by_place(path: Path) -> str | None:
    """The set of a file of labels, where its place tells it: in a rendered demo scene. None where it does not."""
    return "scannet" if any((folder / "demo.json").is_file() for folder in path.parents[:2]) else None


def ids_of_picture(path: Path, bits: int) -> str | None:
    """The set of a label picture, where that is certain: 16 bits in a folder ``label-filt``, as ScanNet has them."""
    return "scannet" if bits == 16 and path.parent.name == "label-filt" else ids_by_place(path)


def ids_of_vertices(path: Path, labels: NDArray[Any], rgb: NDArray[Any] | None) -> str | None:
    """The set of the labels of a mesh, where that is certain: by the colours that ScanNet paints its classes in.

    Args:
        path: of the mesh.
        labels: (N,).
        rgb: (N, 3) of the vertices, or None.
    """
    if (known := ids_by_place(path)) is not None or rgb is None:
        return known
    ids, first = np.unique(labels, return_index=True)
    painted = {
        int(label): tuple(rgb[at].tolist())
        for label, at in zip(ids, first, strict=True)
        if (rgb[labels == label] == rgb[at]).all()
    }
    right = {}
    for name in _TELLING:
        colors = label_set(name).colors or {}
        right[name] = {label for label, color in painted.items() if colors.get(label) == color}
    # One more class of the right colour than the other set has, and none that the other alone explains.
    for name, other in (_TELLING, _TELLING[::-1]):
        if right[name] - right[other] and not right[other] - right[name]:
            return name
    return None


def choose_ids(stated: str | None, found: str | None, where: object, key: str = "labels_ids") -> LabelSet:
    """The set that is said, or else the one that was found out.

    Args:
        stated: what the configuration says, or None.
        found: what the files say, or None where they don't.
        where: the labels, for messages.
        key: of the configuration.

    Raises:
        DataError: If neither says it, or they contradict each other.
    """
    if stated is None and found is None:
        raise DataError(
            f"{where}: whose ids these labels are can't be told from them (2 is a chair to ScanNet, a floor to NYU40); "
            f"say {key}={'|'.join(LABEL_IDS)}, or a CSV file of id,name"
        )
    if stated is not None and found is not None and stated in LABEL_IDS and SAME_IDS.get(stated, stated) != found:
        raise DataError(f"{where}: {key}={stated}, but these labels are {found}'s; say {key}={found}, or nothing")
    return label_set(stated or found or "")


def check_ids(labels: NDArray[Any], known: LabelSet, where: object, key: str = "labels_ids") -> None:
    """Refuses labels that the set can't have.

    Raises:
        DataError: If one is higher than any id of the set.
    """
    if known.highest is None or labels.size == 0:
        return
    highest = int(labels[labels != _VOID].max(initial=0))
    if highest > known.highest:
        raise DataError(
            f"{where}: holds the label {highest}, but {known.title}'s ids end at {known.highest}; ids of another set, "
            f"or of instances? See {key}"
        )
