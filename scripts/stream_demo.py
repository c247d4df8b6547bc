r"""Streams the frames of a scene, one by one: instances keep their numbers, and their CLIP vectors answer texts.

    clipfeat-extract experiment=demo sampling=mesh model/head=text output_dir=out data.num_frames=20 \
        'sampling.labels_file="${data.root}/{scene}/{scene}_vh_clean_2.labels.ply"'
    python scripts/stream_demo.py out --query "a chair" "a lamp"

What a network would find in a frame is taken from the labels here, in random order: the points of each instance. How
often an instance changes its number from one frame that shows it to the next is counted, and how often one number
stands for several.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from clipfeat import FeatureStore
from clipfeat.cli.main import pipe_may_close
from clipfeat.errors import ClipfeatError, DataError
from clipfeat.fusion.online import ClipMemoryBank, OnlineMerge, pool_instances
from clipfeat.model.text import load_text_encoder
from clipfeat.types import PointFeatures

FEWEST_POINTS = 5


@dataclass
class Tally:
    """What became of each true instance.

    Attributes:
        sightings: instances in all frames.
        switches: how often one has another number than where it was seen before.
        last: number of each true instance where it was seen last.
        shown: true instances that each number has stood for.
    """

    sightings: int = 0
    switches: int = 0
    last: dict[int, int] = field(default_factory=dict)
    shown: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add(self, truth: Sequence[int], numbers: Sequence[int]) -> None:
        """Counts a frame."""
        for true, number in zip(truth, numbers, strict=True):
            self.sightings += 1
            self.switches += self.last.get(true, number) != number
            self.last[true] = number
            self.shown[number].add(true)

    def __str__(self) -> str:
        several = sum(len(true) > 1 for true in self.shown.values())
        return (
            f"{len(self.last)} instances in {self.sightings} sightings became {len(self.shown)} numbers: "
            f"{self.switches} switches, {several} numbers stand for several"
        )


def frame_instances(features: PointFeatures, rng: np.random.Generator) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The true numbers of a frame's instances in random order, and what ``OnlineMerge.merge`` takes of them."""
    instance, label = (features.attributes[name].astype(np.int64) for name in ("instance", "label"))
    numbers, counts = np.unique(instance, return_counts=True)
    truth = rng.permutation(numbers[(counts >= FEWEST_POINTS) & (numbers > 0)]).tolist()
    masks = torch.from_numpy(np.stack([instance == number for number in truth]))
    xyz = torch.from_numpy(features.xyz).double()
    low, high = (torch.stack([bound(xyz[mask]) for mask in masks]) for bound in (_lowest, _highest))
    vectors, _ = pool_instances(masks, torch.from_numpy(features.pts_feat).float(), torch.from_numpy(features.conf_2d))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return truth, {
        "masks": masks,
        "labels": torch.tensor([int(label[mask][0]) for mask in masks.numpy()]),
        "scores": masks.double().mean(1),
        "queries": vectors,
        "query_feats": unit.double(),
        "sem_preds": torch.zeros(len(masks), 1),
        "xyz_list": (low + high) / 2,
        "bboxes": torch.cat((torch.zeros_like(low), high - low), 1),
    }


def _lowest(xyz: torch.Tensor) -> torch.Tensor:
    return xyz.amin(0)


def _highest(xyz: torch.Tensor) -> torch.Tensor:
    return xyz.amax(0)


def stream(
    store: FeatureStore, scene: str, *, use_bbox: bool, quiet: bool
) -> tuple[Tally, OnlineMerge, ClipMemoryBank]:
    """Merges the frames of a scene in their order.

    Raises:
        DataError: If the points have no instances.
    """
    merge, bank, tally, rng = (
        OnlineMerge(10_000, use_bbox=use_bbox),
        ClipMemoryBank(),
        Tally(),
        np.random.default_rng(0),
    )
    for number in store.frames(scene):
        features = store.load(scene, number)
        if not {"instance", "label"} <= features.attributes.keys():
            where = store.path(scene, number)
            raise DataError(f"{where}: its points have no instance and label; extract with sampling.labels_file=…")
        truth, arguments = frame_instances(features, rng)
        merge.merge(**arguments)
        assert merge.matching is not None  # noqa: S101 - for the type checker; a frame was merged
        feat, conf = torch.from_numpy(features.pts_feat), torch.from_numpy(features.conf_2d)
        bank.update(merge.matching, *pool_instances(arguments["masks"], feat, conf))
        before = tally.switches
        tally.add(truth, merge.matching.tolist())
        if not quiet:
            known = len(bank)
            print(f"frame {number}: {len(truth)} instances, {known} known, {tally.switches - before} switched")
    return tally, merge, bank


@pipe_may_close()
def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="output_dir of clipfeat-extract; head=text, if texts are asked for")
    parser.add_argument("--scene", help="default: all scenes of the store, each without its frames")
    parser.add_argument("--boxes", action="store_true", help="instances are near where their boxes overlap")
    parser.add_argument("--query", nargs="*", default=[], help="texts that the instances of --scene are ranked by")
    args = parser.parse_args()
    try:
        store = FeatureStore(args.store)
        for scene in [args.scene] if args.scene else store.scenes:
            tally, merge, bank = stream(store, scene, use_bbox=args.boxes, quiet=not args.scene)
            print(f"{scene}: {tally}")
            if args.query:
                answer(store, merge, bank, args.query)
    except ClipfeatError as error:
        print(f"stream_demo: {error}", file=sys.stderr)
        return 1
    return 0


def answer(store: FeatureStore, merge: OnlineMerge, bank: ClipMemoryBank, texts: list[str]) -> None:
    """Prints the instances that fit each text best."""
    about = store.model
    if about["head"] != "text":
        raise DataError(f"{store.folder}: features of head {about['head']}, texts are compared to model/head=text")
    weights = None if about["weights"] == "random" else about["weights"]
    tower = load_text_encoder(about["arch"], weights, input_size=about["window"] or about["input_size"])
    if tower.weights_sha256 != about["weights_sha256"]:
        raise DataError(
            f"{store.folder}: features of weights {about['weights_sha256']}, texts of {tower.weights_sha256}"
        )
    cosine = bank.query(torch.from_numpy(tower.encode_text(texts)))
    assert merge.instances is not None  # noqa: S101 - for the type checker; frames were merged
    for text, row in zip(texts, cosine, strict=True):
        best = row.topk(min(3, len(row)))
        found = ", ".join(
            f"instance {i} (label {int(merge.instances.labels[i])}, cosine {value:.3f})"
            for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        print(f"  {text}: {found}  weights={about['weights']}")


if __name__ == "__main__":
    sys.exit(main())
