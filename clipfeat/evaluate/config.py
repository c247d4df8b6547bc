"""All of ``clipfeat-evaluate``."""

from dataclasses import dataclass, field

from clipfeat.config.checks import at_least
from clipfeat.config.paths import path_key
from clipfeat.data.label_sets import check_label_ids
from clipfeat.errors import ConfigError
from clipfeat.model.config import ModelConfig, check_templates
from clipfeat.sampling.config import PointsConfig

CANDIDATES = (
    "none",
    "none+nearest",
    "pixelshuffle",
    "pixelshuffle+nearest",
    "quarter",
    "bilinear2x",
    "bilinear4x",
    "proj128",
    "pca128",
    "cons128",
    "conv256",
    "tinysa256",
    "text",
    "none+maskclip",
    "none+sclip",
    "none+clearclip",
    "none+naclip",
    "none+sc_clip",
    "text+naclip",
    "text+sc_clip",
    "none+letterbox",
    "none+input336",
    "none+input336+window224",
)
"""What clipfeat-evaluate compares where nothing else is said; clipfeat/evaluate/candidates.py knows the words."""


@dataclass
class EvaluateConfig(PointsConfig):
    """All of ``clipfeat-evaluate``; which frames and points it looks at is told by ``PointsConfig``.

    Attributes:
        model: see ModelConfig; what a candidate's words don't say is as here. Its ``head.weights`` are those of the
            candidates with its ``head.name``.
        candidates: what is compared, each in words with + between them: a head (none, pixelshuffle, quarter,
            bilinear2x, bilinear4x, proj128, pca128, cons128, conv256, tinysa256, text), an attention variant,
            self_similarity (the map is refined), squash or letterbox, input<pixels>, window<pixels>, nearest. The
            others are told with their difference to the first.
        labels: pattern of pictures of label ids (8 or 16 bits), with {scene} and {frame} in it, of the colour
            pictures' aspect ratio; null takes the labels that the points bear (``sampling=mesh`` with
            ``sampling.labels_file``, or ``sampling=frame_points``), and then nothing is told of edges.
        labels_ids: whose ids the labels are: scannet (raw ids, judged as ScanNet200's classes; scannet200 is the same),
            nyu40, scannet20, mpcat40, or a CSV file of id,name; null is what the labels themselves tell.
        templates: what is put around a class's name for zero-shot: plain, photo, indoor, or a text file (.txt) of your
            own, a template a line. A name such as "couch|sofa" is the mean of both.
        against: texts of what is no class, for zero-shot: a point that is more like one of them than like any class is
            predicted as none.
        text_cache: folder for the vectors of texts: a text tower is loaded only for new ones. Null is
            ``clipfeat/texts`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; none keeps nothing.
        test_scenes_file: text file with the scenes that are held out, beside those of ``scenes_file``, which are then
            learnt from alone; null holds out each scene once, see ``folds``.
        folds: parts of the scenes, each of which is held out in turn.
        points_per_frame: labelled points of a frame whose features are judged, chosen at random.
        max_points: of all frames together; fewer a frame are taken where there would be more.
        neighbours: of each point that vote on its class.
        edge_px: pixels of the colour picture within which a point is at an edge of the labels.
        resamples: sets of scenes that the 95 % intervals are made of.
        output_dir: folder for the tables and the plot; others of clipfeat-evaluate are replaced.
        device: auto, cpu, cuda or cuda:<n>.
        batch_size: pictures a forward pass; null is 2 on a CPU and 32 on a GPU.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    candidates: list[str] = field(default_factory=lambda: list(CANDIDATES))
    labels: str | None = path_key("${data.root}/{scene}/label-filt/{frame}.png")
    labels_ids: str | None = path_key(None)
    templates: str = path_key("plain")
    against: list[str] = field(default_factory=list)
    text_cache: str | None = path_key(None)
    test_scenes_file: str | None = path_key(None)
    folds: int = 3
    frame_selection: str = "uniform"
    points_per_frame: int = 300
    max_points: int = 60_000
    neighbours: int = 20
    edge_px: float = 16.0
    resamples: int = 1000
    output_dir: str = path_key("outputs/evaluation")
    device: str = "auto"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("batch_size", self.batch_size, 1)
        check_templates("templates", self.templates)
        if self.labels is not None and not ("{scene}" in self.labels and "{frame}" in self.labels):
            raise ConfigError(f"labels={self.labels}: expected a path with {{scene}} and {{frame}} in it, or null")
        check_label_ids("labels_ids", self.labels_ids)
        at_least("folds", self.folds, 2)
        for key in ("points_per_frame", "max_points", "neighbours", "resamples"):
            at_least(key, getattr(self, key), 1)
        at_least("edge_px", self.edge_px, 0)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")
