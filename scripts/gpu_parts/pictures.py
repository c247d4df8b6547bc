"""JPEG and Pillow's resizing on the GPU: how fast, and how far off what the cores do."""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from clipfeat.model.device_resize import resize_there
from clipfeat.model.resize import fixed_weights, pillow_s_order, resize_pillow
from gpu_parts.common import Bench
from gpu_parts.model import loaded

SIDE = 224
_HALF, _ONE = 2**21, 2**22  # of the weights' fixed point


def encoded(bench: Bench) -> list[bytes]:
    """Pictures of the scans as their files have them."""
    return [path.read_bytes() for path in sorted(bench.root.glob("*/color/*.jpg"))[: 40 if bench.gpu else 2]]


def jpeg(bench: Bench) -> None:
    """Decoded by nvJPEG, of torchvision, against libjpeg-turbo."""
    if not bench.gpu:
        return
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode_there

    files = encoded(bench)
    data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def decode() -> list[torch.Tensor]:
        found: list[torch.Tensor] = decode_there(data, mode=ImageReadMode.RGB, device=bench.device)
        return found

    seconds = bench.per_call(decode) / len(data)
    off = [
        np.abs(found.permute(1, 2, 0).cpu().numpy().astype(int) - decode_jpeg(file, "RGB"))
        for found, file in zip(decode()[:8], files, strict=False)
    ]
    share = np.mean([(one > 0).mean() for one in off])
    said = (
        f"{1 / seconds:.0f} pictures/s; off by {max(one.max() for one in off)} levels at most, in {share:.1%} of values"
    )
    bench.note(f"nvJPEG, batches of {len(data)}", said)
    model, some = loaded(bench), decode()[:8]
    size = (some[0].shape[2], some[0].shape[1])
    by_gpu, by_cores = (
        torch.stack([one.values.float() for one in model.feature_maps(pictures, [size] * len(some))])
        for pictures in (
            [found.permute(1, 2, 0).cpu().numpy() for found in some],
            [decode_jpeg(file, "RGB") for file in files[:8]],
        )
    )
    off_by = float((by_gpu - by_cores).norm() / by_cores.norm())
    bench.note("maps of pictures by nvJPEG", f"off by a relative {off_by:.2e}, random weights")
    _damaged(bench, files[0])


def _damaged(bench: Bench, file: bytes) -> None:
    """Whether nvJPEG says so when a file is cut off, or has other bytes in its middle; a run refuses such a frame."""
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode_there

    half = len(file) // 2
    for name, bad in (("cut off", file[:half]), ("damaged", file[:half] + b"\xff\x01" + file[half + 2 :])):
        encoded = torch.frombuffer(bytearray(bad), dtype=torch.uint8)
        try:
            decode_there(encoded, mode=ImageReadMode.RGB, device=bench.device)
            bench.sync()
            said = "is decoded without a word"
        except RuntimeError as error:
            said = f"{type(error).__name__}: {str(error)[:100]}"
        bench.note(f"nvJPEG, a file that is {name}", said)


def resize(bench: Bench) -> None:
    """Pillow's bicubic as a run does it, and by two matrix products of whole numbers: which of them is the fastest.

    float64 holds the products exactly; for float32 a weight, which has 22 bits, is taken in halves: with a pixel's 8
    bits the sums of each then stay below 2^24.
    """
    picture = decode_jpeg(encoded(bench)[0], "RGB")
    expected, count = resize_pillow(picture, (SIDE, SIDE)), 16 if bench.gpu else 1
    batch = torch.from_numpy(np.stack([picture] * count)).to(bench.device).permute(0, 3, 1, 2)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "sums of rows, as a run does": _as_a_run_does,
        "float64 products": partial(_resized, _whole),
        "float32 products in halves": partial(_resized, _in_halves),
    }
    for name, way in ways.items():
        found = way(batch[:1])[0].permute(1, 2, 0).cpu().numpy()
        seconds = bench.per_call(partial(way, batch)) / count
        said = f"{1 / seconds:.0f} pictures/s; equal to Pillow: {np.array_equal(found, expected)}"
        bench.note(f"bicubic by {name}", said)


def _as_a_run_does(batch: torch.Tensor) -> torch.Tensor:
    return resize_there(batch.permute(0, 2, 3, 1), (SIDE, SIDE), "bicubic").permute(0, 3, 1, 2)


Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _resized(product: Product, batch: torch.Tensor) -> torch.Tensor:
    """(B, 3, h, w) uint8 to (B, 3, S, S) uint8, in the order in which Pillow does it."""
    height, width = batch.shape[2:]
    across, down = _dense(width, batch.device), _dense(height, batch.device)

    def along_rows(values: torch.Tensor) -> torch.Tensor:
        return _rounded(product(values, across.T))

    def along_columns(values: torch.Tensor) -> torch.Tensor:
        return _rounded(product(values.transpose(2, 3), down.T)).transpose(2, 3)

    first, second = along_rows, along_columns
    if not pillow_s_order((width, height), (SIDE, SIDE), "bicubic"):
        first, second = second, first
    return second(first(batch)).byte()


@lru_cache
def _dense(length: int, device: torch.device) -> torch.Tensor:
    """(S, length) float64: Pillow's weights of each pixel."""
    starts, weights = fixed_weights(length, SIDE, "bicubic")
    full: NDArray[np.float64] = np.zeros((SIDE, length))
    for row, (start, own) in enumerate(zip(starts, weights, strict=True)):
        full[row, start : start + len(own)] = own
    return torch.from_numpy(full).to(device)


def _whole(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return values.double() @ weights


def _in_halves(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    upper = (weights / 2048).floor()
    lower = weights - 2048 * upper
    values = values.float()
    return (values @ upper.float()).double() * 2048 + (values @ lower.float()).double()


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    return ((sums + _HALF) / _ONE).floor().clamp(0, 255)
