"""What ``vis=…`` sets."""

from dataclasses import dataclass

from clipfeat.config.checks import at_least

PAINTERS = {
    "tsne": "clipfeat.vis.painters:TsnePainter.of",
    "pca": "clipfeat.vis.painters:PcaPainter.of",
    "heatmap": "clipfeat.vis.painters:HeatmapPainter.of",
}
"""What ``vis`` can be, besides none: what makes the ``Painter`` of each (of VisConfig, the footer's note of the model,
and the seed), imported when needed."""


@dataclass
class VisConfig:
    """The picture of each frame.

    Attributes:
        name: tsne (picture, PCA colours, t-SNE scatter), pca, heatmap or none.
        max_frames: pictures a scene at most, spread evenly over its frames.
        points_per_frame: points of each frame in the joint t-SNE of a scene.
        overlay_points: points of each frame that are painted over the picture.
        perplexity: t-SNE's.
        dpi: resolution of the PNG; its width is 15 inches for tsne, 10 otherwise.
    """

    name: str = "tsne"
    max_frames: int = 50
    points_per_frame: int = 200
    overlay_points: int = 4000
    perplexity: float = 30.0
    dpi: int = 110

    def __post_init__(self) -> None:
        at_least("vis.max_frames", self.max_frames, 1)
        at_least("vis.points_per_frame", self.points_per_frame, 10)
        at_least("vis.overlay_points", self.overlay_points, self.points_per_frame)
        at_least("vis.perplexity", self.perplexity, 1)
        at_least("vis.dpi", self.dpi, 20)
