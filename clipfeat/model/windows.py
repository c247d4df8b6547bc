"""A picture larger than the network's input, seen through overlapping windows whose maps become one.

The usual protocol of zero-shot segmentation: the picture keeps its aspect ratio, a window of the size that the network
was trained on slides over it, the last one in each direction is moved back to end at the edge, and where windows
overlap their tokens are averaged. Here all edges lie on edges of patches, so that the tokens of all windows lie on one
grid and nothing has to be interpolated.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Windows:
    """Where windows lie, all lengths in pixels of the resized picture.

    Attributes:
        side: of a window, a multiple of ``patch_size``.
        stride: from one window to the next, a multiple of ``patch_size``, at most ``side``.
        patch_size: side of a patch.
    """

    side: int
    stride: int
    patch_size: int

    def resized(self, width: int, height: int, shorter: int) -> tuple[int, int]:
        """(width, height) that a picture is resized to.

        Its shorter side becomes ``shorter``; the longer one keeps the aspect ratio as nearly as whole patches do.
        """
        patches = shorter / min(width, height) / self.patch_size
        # A side that is the shorter comes out as itself: it is a whole number of patches.
        across, down = (max(round(length * patches) * self.patch_size, shorter) for length in (width, height))
        return across, down

    def corners(self, width: int, height: int) -> list[tuple[int, int]]:
        """(left, top) of each window in a picture of this size, row by row."""
        lefts, tops = ([*range(0, length - self.side, self.stride), length - self.side] for length in (width, height))
        return [(left, top) for top in tops for left in lefts]

    def cut(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The n windows (side, side, 3) of a picture (h, w, 3), in the order of ``corners``; they share its memory."""
        corners = self.corners(pixels.shape[1], pixels.shape[0])
        return [pixels[top : top + self.side, left : left + self.side] for left, top in corners]

    def stitch(self, tokens: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """The windows' tokens as one map.

        Args:
            tokens: (n, D, g, g), in the order of ``corners``.
            width: of the resized picture.
            height: of the resized picture.

        Returns:
            (D, height / patch_size, width / patch_size) float32: the mean of all windows that see a cell.
        """
        grid = tokens.shape[-1]
        size = (height // self.patch_size, width // self.patch_size)
        total = torch.zeros(tokens.shape[1], *size, dtype=torch.float32, device=tokens.device)
        seen = torch.zeros(size, dtype=torch.float32, device=tokens.device)
        for window, (left, top) in zip(tokens, self.corners(width, height), strict=True):
            row, column = top // self.patch_size, left // self.patch_size
            total[:, row : row + grid, column : column + grid] += window
            seen[row : row + grid, column : column + grid] += 1
        return total / seen
