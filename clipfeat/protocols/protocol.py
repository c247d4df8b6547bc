"""What a protocol is: classes, scenes, templates and rules, read from a YAML file.

A file holds:

==========  ============================================================================================================
title       what tables and pictures are headed by
sources     a list of where each of its facts is from
kind        classes (a class a point, the default) or openlex3d (categories of labels)
scenes      a list of scenes, or a text file beside it with a scene a line; without it ``scenes_file`` has to be said
classes     a CSV file beside it with the columns id,name and, where they are wanted, group (head, common, tail, …) and
            text (what is asked for in place of the name; one that begins with = stands without a template); or one of
            the sets of ``labels_ids``
labels_ids  whose ids these are: scannet, nyu40, …; another word for a table of its own, such as replica
templates   a list of texts with one {} each
rules       see ``RulesConfig``; what is not said is as in ``Rules``
==========  ============================================================================================================
"""

import csv
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from clipfeat.data.base import read_scenes_file
from clipfeat.data.label_ids import label_set
from clipfeat.data.label_sets import LABEL_IDS
from clipfeat.data.scannet200 import LabelSet, read_label_set
from clipfeat.errors import ConfigError, DataError
from clipfeat.protocols.config import PROTOCOLS, RulesConfig, check_rules

TABLES = Path(__file__).parent / "tables"

_KINDS = ("classes", "openlex3d")


@dataclass(frozen=True)
class Rules:
    """How points become numbers; see ``RulesConfig``."""

    voxel_size: float = 0.0
    neighbours: int = 1
    reach: float = 0.05
    unseen: str = "wrong"
    ignore: list[str] = field(default_factory=list)
    ignored_compete: bool = False
    ignored_as_false: bool = False
    candidates: str = "all"
    mean_over: str = "present"
    average: str = "pooled"


@dataclass(frozen=True, eq=False)
class Protocol:
    """How a published table counts.

    Attributes:
        name: of its file.
        title: of its numbers.
        kind: classes or openlex3d.
        sources: where its facts are from.
        scenes: that it is over; empty where the user must say.
        classes: its K classes, in the order of their ids; None for openlex3d.
        texts: K texts that stand for the classes; one that begins with = stands without a template.
        labels_ids: whose ids the classes' ids are.
        templates: what is put around a text.
        rules: how points become numbers.
    """

    name: str
    title: str
    kind: str
    sources: tuple[str, ...]
    scenes: tuple[str, ...]
    classes: LabelSet | None
    texts: tuple[str, ...]
    labels_ids: str
    templates: tuple[str, ...]
    rules: Rules

    @property
    def groups(self) -> list[str]:
        """The groups of its classes, such as head, common and tail, in the order in which their classes first come."""
        order = ("head", "common", "tail")
        found = dict.fromkeys(group for group in (self.classes.groups if self.classes else ()) if group)
        return sorted(found, key=lambda group: order.index(group) if group in order else len(order))

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(K,) the classes that are judged."""
        names = self.classes.names if self.classes else ()
        return np.array([name not in self.rules.ignore for name in names], bool)


def read_protocol(name: str, rules: RulesConfig | None = None) -> Protocol:
    """Reads a protocol.

    Args:
        name: one of ``PROTOCOLS``, or a YAML file.
        rules: what is to differ from the file.

    Raises:
        DataError: If the file, or one that it names, can't be read or is no such table.
        ConfigError: If a rule can't be.
    """
    path = TABLES / f"{name}.yaml" if name in PROTOCOLS else Path(name)
    said = _load(path)
    known = {"title", "sources", "kind", "scenes", "classes", "labels_ids", "templates", "rules"}
    if unknown := sorted(map(str, said.keys() - known)):
        raise DataError(f"{path}: {unknown[0]} is none of {', '.join(sorted(known))}")
    kind = str(said.get("kind", "classes"))
    if kind not in _KINDS:
        raise DataError(f"{path}: kind={kind}, expected one of {', '.join(_KINDS)}")
    classes, texts = _classes(path, said.get("classes")) if kind == "classes" else (None, ())
    for key in ("templates", "sources"):
        if not isinstance(said.get(key, []), list):
            raise DataError(f"{path}: {key}={said[key]}, expected a list of texts")
    templates = tuple(map(str, said.get("templates", ["{}"])))
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise DataError(f"{path}: templates={list(templates)}, expected texts with one {{}} each")
    protocol = Protocol(
        name=path.stem,
        title=str(said.get("title", path.stem)),
        kind=kind,
        sources=tuple(map(str, said.get("sources", ()))),
        scenes=tuple(_scenes(path, said.get("scenes"))),
        classes=classes,
        texts=texts,
        labels_ids=str(said.get("labels_ids", path.stem)),
        templates=templates,
        rules=_rules(path, said.get("rules", {}), rules),
    )
    if classes is not None and (unknown := [n for n in protocol.rules.ignore if n not in classes.names]):
        raise ConfigError(f"rules.ignore: {path.name} has no class {unknown[0]}, but {', '.join(classes.names[:9])}, …")
    return protocol


def _load(path: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"protocol={path}: can't be read ({why}), expected a YAML file such as {TABLES}/*.yaml"
        ) from error
    if not isinstance(said, dict):
        raise DataError(f"protocol={path}: holds no keys, expected title, classes, rules and so on")
    return said


def _scenes(path: Path, said: Any) -> list[str]:
    if said is None:
        return []
    if isinstance(said, list) and all(isinstance(one, str) for one in said):
        return said
    return read_scenes_file(path.parent / str(said))


def _classes(path: Path, said: Any) -> tuple[LabelSet, tuple[str, ...]]:
    if said in LABEL_IDS:
        known = label_set(said)
        return known, known.names
    if not isinstance(said, str):
        raise DataError(f"{path}: classes={said}, expected a CSV file beside it, or one of {', '.join(LABEL_IDS)}")
    table = path.parent / said
    classes = read_label_set(table, path.stem)
    with table.open(encoding="utf-8-sig", newline="") as file:
        texts = {int(row["id"]): (row.get("text") or "").strip() for row in csv.DictReader(file)}
    return classes, tuple(texts[label] or name for label, name in classes.by_id().items())


def _rules(path: Path, said: Any, changed: RulesConfig | None) -> Rules:
    known = [one.name for one in dataclasses.fields(Rules)]
    if not isinstance(said, dict) or (unknown := [key for key in said if key not in known]):
        wrong = unknown[0] if isinstance(said, dict) else said
        raise DataError(f"{path}: rules has {wrong}, expected {', '.join(known)}")
    try:
        rules = RulesConfig(**said)
        check_rules(rules, "rules.")
    except (ConfigError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error
    own = {
        key: value for one in (rules, changed or RulesConfig()) for key, value in vars(one).items() if value is not None
    }
    return Rules(**own)
