"""What ``output=…`` sets."""

from dataclasses import dataclass

from clipfeat.config.checks import one_of

DTYPES = ("float32", "float16")


@dataclass
class OutputConfig:
    """The feature files.

    Attributes:
        name: npz, h5, h5_scene (one file a scene), or grid (the map in float16 and where the points lie in it, a
            hundredth of the bytes; ``clipfeat.FeatureStore`` samples it when it is read).
        dtype: of ``pts_feat`` on disk: float32 or float16. A grid holds none.
    """

    name: str = "npz"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        one_of("output.dtype", self.dtype, DTYPES)
