"""All of ``clipfeat-evaluate protocol=…``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipfeat.config.checks import at_least, listed, one_of
from clipfeat.config.paths import path_key
from clipfeat.data.label_sets import check_label_ids
from clipfeat.errors import ConfigError
from clipfeat.model.config import check_templates

PROTOCOLS = (
    "scannet20",
    "scannet200",
    "scannet200_3d",
    "matterport21",
    "replica",
    "replica_conceptgraphs",
    "replica_hovsg",
    "replica_rayfronts",
    "openlex3d",
)
"""Those that come with clipfeat: a YAML each in clipfeat/protocols/tables."""

UNSEEN = ("wrong", "left_out", "left_out_of_iou", "nearest")
CANDIDATES = ("all", "scene")
MEAN_OVER = ("present", "all")
AVERAGE = ("pooled", "scenes")


@dataclass
class RulesConfig:
    """What differs between published tables; null is as the protocol has it.

    Attributes:
        voxel_size: edge in metres of the voxels that labelled points become, each of the label that most of its points
            have; 0 counts the points themselves. For openlex3d the voxels that predictions become.
        neighbours: fused points that vote on a labelled point's class.
        reach: metres within which a fused point must be for a labelled point to count as seen, where the labelled
            points are not the fused ones.
        unseen: what labelled points are that no frame sees: wrong (predicted as no class), left_out (of everything),
            left_out_of_iou (and wrong for the accuracy), or nearest (they take the vote of the seen points that are
            nearest, however far these are).
        ignore: names of classes that are not judged.
        ignored_compete: whether these may be predicted.
        ignored_as_false: whether their points, and unlabelled ones, lower the IoU of a class that is predicted there.
        candidates: all (classes may be predicted) or scene (only those that some labelled point of the scene is of).
        mean_over: present (means are over the classes that points are of) or all (classes without a point count as 0).
        average: pooled (one confusion matrix of all scenes) or scenes (the mean of the scenes' own numbers).
    """

    voxel_size: float | None = None
    neighbours: int | None = None
    reach: float | None = None
    unseen: str | None = None
    ignore: list[str] | None = None
    ignored_compete: bool | None = None
    ignored_as_false: bool | None = None
    candidates: str | None = None
    mean_over: str | None = None
    average: str | None = None

    def __post_init__(self) -> None:
        check_rules(self, "rules.")


def check_rules(rules: Any, where: str) -> None:
    """Checks the values of rules, of which some may be None; ``where`` begins each key in messages.

    Raises:
        ConfigError: If one is out of range.
    """
    at_least(f"{where}voxel_size", rules.voxel_size, 0)
    at_least(f"{where}neighbours", rules.neighbours, 1)
    at_least(f"{where}reach", rules.reach, 0, above=True)
    for key, choices in (
        ("unseen", UNSEEN), ("candidates", CANDIDATES), ("mean_over", MEAN_OVER), ("average", AVERAGE),
    ):  # fmt: skip
        value = getattr(rules, key)
        if value is not None:
            one_of(f"{where}{key}", value, choices)


@dataclass
class ProtocolConfig:
    """All of ``clipfeat-evaluate protocol=…``: fused scenes, predicted by text, counted as a published table counts.

    Attributes:
        protocol: scannet20, scannet200, scannet200_3d, matterport21, replica, replica_conceptgraphs, replica_hovsg,
            replica_rayfronts, openlex3d, or a YAML file of your own, laid out as those in clipfeat/protocols/tables.
        store: output_dir of clipfeat-fuse, or one file of it; of features in the space of texts.
        labels_file: the labelled points of a scene, with {scene} in it: a PLY or npz whose points bear label (or
            semantic), Replica's mesh_semantic.ply with its info_semantic.json, or a text file with a label a line;
            null takes the labels that the fused points bear (``clipfeat-fuse labels_file=…``). Where these are other
            points than the fused ones, predictions go to the nearest.
        points_file: PLY or npz with {scene} in it, the points of a text file of labels; null are the fused ones.
        labels_ids: whose ids the labels are: scannet (raw ids; scannet200 is the same), nyu40, scannet20, mpcat40,
            replica (those of the protocol's own table), or a CSV file of id,name; null is what the labels themselves
            tell. ScanNet's raw ids become NYU40's by ScanNet's own table, all others by equal names.
        categories: folder of OpenLex3D's labels of one data set, which has prompt_list.txt and, of each scene,
            gt_categories.json (for protocol=openlex3d, whose ``labels_file`` tells the objects of points).
        top: for openlex3d, how many of the likeliest labels of a point may be right.
        scenes: a scene, or a list of them, or all (of the store); null takes those of the protocol.
        scenes_file: text file with a scene a line, in place of those of the protocol.
        rules: see RulesConfig.
        templates: what is put around a class's name: plain, photo, indoor, or a text file (.txt), a template a line;
            null is as the protocol has it. A name such as "couch|sofa" is the mean of both.
        against: texts of what is no class: a point that is more like one of them than like any class is predicted as
            none.
        text_cache: folder for the vectors of texts: a text tower is loaded only for new ones. Null is
            ``clipfeat/texts`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; none keeps nothing.
        run: output_dir of clipfeat-extract, where the text tower is told; null is what the fused folder says.
        output_dir: folder for the numbers; null is ``<store>/<protocol>``.
    """

    protocol: str = path_key()
    store: str = path_key()
    labels_file: str | None = path_key(None)
    points_file: str | None = path_key(None)
    labels_ids: str | None = path_key(None)
    categories: str | None = path_key(None)
    top: list[int] = field(default_factory=lambda: [1, 5])
    scenes: Any = None
    scenes_file: str | None = path_key(None)
    rules: RulesConfig = field(default_factory=RulesConfig)
    templates: str | None = path_key(None)
    against: list[str] = field(default_factory=list)
    text_cache: str | None = path_key(None)
    run: str | None = path_key(None)
    output_dir: str | None = path_key(None)

    def __post_init__(self) -> None:
        if not self.protocol.endswith(".yaml"):
            one_of("protocol", self.protocol, (*PROTOCOLS, "a YAML file"))
        if self.labels_ids != "replica":
            check_label_ids("labels_ids", self.labels_ids)
        for key in ("labels_file", "points_file"):
            value = getattr(self, key)
            endings = (".ply", ".npz", ".txt") if key == "labels_file" else (".ply", ".npz")
            if value is not None and not value.lower().endswith(endings):
                raise ConfigError(f"{key}={value}: expected a file that ends in {', '.join(endings)}")
            if value is not None and "{scene}" not in value:
                raise ConfigError(f"{key}={value}: expected a path with {{scene}} in it")
        self.scenes = listed("scenes", self.scenes, str, "the name of a scene, a list of them, or all")
        if self.scenes and self.scenes_file:
            raise ConfigError(f"scenes={','.join(self.scenes)} scenes_file={self.scenes_file}: say one of the two")
        if not self.top or min(self.top) < 1:
            raise ConfigError(f"top={self.top}: expected numbers of at least 1, such as [1,5]")
        if self.templates is not None:
            check_templates("templates", self.templates)
        if self.output_dir is None:
            store = Path(self.store)
            folder = store.parent if store.suffix == ".npz" else store
            self.output_dir = str(folder / Path(self.protocol).stem)
