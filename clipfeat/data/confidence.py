"""What a recorder's confidence in its depth makes of it: holes, or weights."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfeat.errors import FrameError


@dataclass(frozen=True)
class Trust:
    """What confidence makes of depth.

    Attributes:
        least: depth of less is a hole; None for no such bound.
        full: the confidence that counts in full, of which others are a share; None for all alike.
    """

    least: int | None
    full: int | None

    @property
    def asked(self) -> bool:
        """Whether confidence is needed at all."""
        return self.least is not None or self.full is not None

    def __str__(self) -> str:
        said = {"confidence_min": self.least, "confidence_full": self.full}
        return " ".join(f"data.{key}={value}" for key, value in said.items() if value is not None)

    @property
    def without(self) -> str:
        """The keys that do without, for messages."""
        return " ".join(f"{part.partition('=')[0]}=null" for part in str(self).split())

    def __call__(
        self, depth_m: NDArray[np.float32], confidence: NDArray[np.integer], where: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Depth without what is not trusted, and the weights of ``Frame.depth_weight``.

        Args:
            depth_m: (h, w) metres.
            confidence: (h, w), of the same pixels.
            where: the confidence, for messages.

        Raises:
            FrameError: If the confidence is of another size, or larger than ``full``.
        """
        if confidence.shape != depth_m.shape:
            (h, w), (height, width) = confidence.shape, depth_m.shape
            raise FrameError(f"{where}: confidence of {w}×{h} pixels, but depth has {width}×{height}")
        kept = depth_m if self.least is None else np.where(confidence >= self.least, depth_m, np.float32(0))
        if self.full is None:
            return kept, None
        if (largest := int(confidence.max(initial=0))) > self.full:
            raise FrameError(
                f"{where}: confidence up to {largest}, more than data.confidence_full={self.full}, which is what the "
                f"recorder gives where it is surest"
            )
        return kept, confidence.astype(np.float32) / np.float32(self.full)
