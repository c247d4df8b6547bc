"""What can be read off features: a linear classifier, nearest neighbours, and texts. All of it follows from the input.

A probe is fitted on points of some scenes and asked about points of others.
"""

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray

from clipfeat.data.scannet200 import UNLABELLED
from clipfeat.types import FloatArray
from clipfeat.vis.directions import unit_directions

_ROWS = 2048
"""Points that are compared to all others at a time."""


def linear_probe(
    features: FloatArray,
    classes: NDArray[np.int64],
    asked: FloatArray,
    *,
    penalty: float = 1.0,
    steps: int = 100,
    device: torch.device | str = "cpu",
) -> NDArray[np.int64]:
    """Multinomial logistic regression of standardised features: what one linear layer can tell of them.

    It minimises ``sum of the cross entropies + penalty/2 · |W|²`` as scikit-learn's ``LogisticRegression(C=1/penalty)``
    does, by L-BFGS from zeros, so the same input gives the same classifier.

    Args:
        features: (N, C) float32 that it learns from.
        classes: (N,) of these, of any values.
        asked: (M, C) features.
        penalty: on the squared weights.
        steps: of L-BFGS at most.
        device: where it computes.

    Returns:
        (M,) classes out of those that ``classes`` holds.

    Raises:
        ValueError: If there is nothing to learn from.
    """
    if len(features) == 0:
        raise ValueError("a probe needs a labelled point to learn from")
    known, target = np.unique(classes, return_inverse=True)
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, np.inf)  # a constant channel says nothing

    def standardised(rows: FloatArray) -> torch.Tensor:
        return torch.from_numpy(((rows - mean) / scale).astype(np.float32)).to(device)

    rows, labels = standardised(features), torch.from_numpy(target.astype(np.int64)).to(device)
    weight = torch.zeros(len(known), rows.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(len(known), device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The mean in place of the sum: the same minimum, and numbers of a size that the line search likes.
        value = (
            nnf.cross_entropy(nnf.linear(rows, weight, bias), labels) + penalty / 2 / len(rows) * weight.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)
    with torch.inference_mode():
        found = [nnf.linear(standardised(asked[part]), weight, bias).argmax(1).cpu() for part in _parts(len(asked))]
    return known[torch.cat(found).numpy()] if found else np.empty(0, np.int64)


def nearest_neighbours(
    features: FloatArray,
    classes: NDArray[np.int64],
    asked: FloatArray,
    *,
    count: int = 20,
    device: torch.device | str = "cpu",
) -> NDArray[np.int64]:
    """The class that most of the ``count`` nearest neighbours by cosine have; of several the smallest.

    Args:
        features: (N, C) float32 among which neighbours are looked for.
        classes: (N,) of these, of any values.
        asked: (M, C) features.
        count: of neighbours; all where there are fewer.
        device: where it computes.

    Returns:
        (M,) classes out of those that ``classes`` holds.

    Raises:
        ValueError: If there is no neighbour.
    """
    if len(features) == 0:
        raise ValueError("nearest neighbours need a labelled point to be compared to")
    known, target = np.unique(classes, return_inverse=True)
    rows = torch.from_numpy(unit_directions(features)).to(device)
    labels = torch.from_numpy(target.astype(np.int64)).to(device)
    found = []
    for part in _parts(len(asked)):
        alike = torch.from_numpy(unit_directions(asked[part])).to(device) @ rows.T
        nearest = labels[alike.topk(min(count, len(rows)), dim=1).indices]
        votes = torch.zeros(len(nearest), len(known), device=device)
        votes.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=votes.dtype))
        # argmax may give any of several largest ones; the smallest class is wanted.
        votes -= torch.arange(len(known), device=device) / (2 * len(known))
        found.append(votes.argmax(1).cpu())
    return known[torch.cat(found).numpy()] if found else np.empty(0, np.int64)


def zero_shot(features: FloatArray, texts: FloatArray, classes: int) -> NDArray[np.int64]:
    """The class whose name each feature (N, C) is most alike.

    That is the largest cosine, and so the largest softmax and, of SigLIP, sigmoid at any temperature, too.

    Args:
        features: (N, C) float32.
        texts: (K + A, C) of length 1: the names of the classes, and then texts of what is no class.
        classes: K.

    Returns:
        (N,) from 0 to K - 1; ``UNLABELLED`` where one of the other texts is more alike than all names, which is where
        each class has a LERF relevancy of less than one half.
    """
    found = [(unit_directions(features[part]) @ texts.T).argmax(axis=1) for part in _parts(len(features))]
    likest = np.concatenate(found) if found else np.empty(0, np.int64)
    return np.where(likest < classes, likest, UNLABELLED)


def _parts(count: int) -> list[slice]:
    return [slice(begin, begin + _ROWS) for begin in range(0, count, _ROWS)]


def folds_of(scenes: int, folds: int, seed: int) -> NDArray[np.int64]:
    """(S,) which fold each scene is held out in: all folds have the same number of scenes, or one more."""
    held_out = np.empty(scenes, np.int64)
    held_out[np.random.default_rng(seed).permutation(scenes)] = np.arange(scenes) % folds
    return held_out
