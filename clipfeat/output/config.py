"""What ``output=…`` sets."""

from dataclasses import dataclass

from clipfeat.config.checks import at_least, one_of

DTYPES = ("float32", "float16")

SEGMENTS = ("masks", "slic")

PACKINGS: dict[str, int | None] = {"none": None, "pca": 64, "int8": 128, "pq": 256}
"""How the features of a scene can be stored, and how many coordinates are kept of each where nothing is said."""


@dataclass
class OutputConfig:
    """The feature files.

    Attributes:
        name: npz, h5, h5_scene (one file a scene), grid (the map in float16 and where the points lie in it, a hundredth
            of the bytes; ``clipfeat.FeatureStore`` samples it when it is read), or segments (one vector a mask; points
            have that of the mask on their pixel).
        dtype: of ``pts_feat`` on disk: float32 or float16. A grid holds none.
        segments: what output=segments pools over: masks (of ``data.masks``), or slic (segments of like colour, by
            scikit-image).
        num_segments: how many of them, with slic.
    """

    name: str = "npz"
    dtype: str = "float32"
    segments: str = "masks"
    num_segments: int = 200

    def __post_init__(self) -> None:
        one_of("output.dtype", self.dtype, DTYPES)
        one_of("output.segments", self.segments, SEGMENTS)
        at_least("output.num_segments", self.num_segments, 1)
