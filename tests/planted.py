"""A planted text space: a model whose feature is, for each labelled pixel, the vector of its class's name."""

import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.data.demo.furniture import SCANNET200_IDS
from clipfeat.model.heads import build_head
from clipfeat.model.preprocess import Preprocess
from clipfeat.model.pretrained import Logits
from clipfeat.types import FeatureMap, resize_affine

CHANNELS = 32
NAMES = {label: name for name, label in SCANNET200_IDS.items()}


def vector_of(text):
    """A direction that follows from the text alone; two of them are at 90° or so."""
    values = np.random.default_rng(zlib.crc32(text.encode())).normal(size=CHANNELS)
    return (values / np.linalg.norm(values)).astype(np.float32)


class PlantedTexts:
    """The text tower of ``PlantedModel``. A template's words are no part of a planted name, and are left out."""

    def __init__(self, weights_sha256="0123456789abcdef", logits=None):
        self.weights_sha256 = weights_sha256
        self.logits = logits or Logits()

    def encode_text(self, prompts, templates):
        return np.stack([vector_of(prompt.removeprefix("a ").removeprefix("the ")) for prompt in prompts])


class PlantedModel:
    """Looks the label pictures of the demo up instead of looking at the pictures; a cell is ``step`` pixels wide."""

    arch, head_name = "planted", "text"
    channels = CHANNELS
    default_batch, most_lanes = 2, None

    def __init__(self, root, step=1):
        self.root, self.step = Path(root), step
        self.head = build_head("text", CHANNELS, None, seed=0)
        self.preprocess = Preprocess(224, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.vectors = np.zeros((max(NAMES) + 1, CHANNELS), np.float32)
        for label, name in NAMES.items():
            self.vectors[label] = vector_of(name)
        self.map_values = CHANNELS * 1296 * 968 // step**2

    def with_memory(self, work):
        return work()

    def stream(self):
        return nullcontext()

    def network_input(self, frame):
        labels = np.asarray(Image.open(self.root / frame.scene_id / "label-filt" / f"{frame.frame_id}.png"))
        return labels[self.step // 2 :: self.step, self.step // 2 :: self.step]

    def map_size(self, image_size):
        width, height = (len(range(self.step // 2, length, self.step)) for length in image_size)
        return height, width

    def feature_maps(self, inputs, image_sizes):
        maps = [torch.from_numpy(self.vectors[labels]).permute(2, 0, 1) for labels in inputs]
        return [FeatureMap(m, resize_affine(size, m.shape[:0:-1])) for m, size in zip(maps, image_sizes, strict=True)]

    def point_features(self, sampled, memory=None):
        return sampled.numpy()

    def describe(self):
        return {
            "arch": self.arch, "weights": "planted", "weights_sha256": "0123456789abcdef", "head": "text",
            "head_sha256": None, "input_size": 224, "window": None, "precision": "fp32",
        }  # fmt: skip

    def close(self):
        """Nothing is held open."""


class PlantedPatches(PlantedModel):
    """Tokens of 14×14 patches, as a ViT-B/16 has them: the mean over a patch of its pixels' own label's vector.

    Args:
        root: of the demo scans.
        channels: of a token.
        sub_cells: whether each of the four channels that PixelShuffle makes sub-cells of tells of that sub-cell alone,
            as if a network had been trained through it; else all channels tell of the whole patch, as a frozen ViT's.
    """

    def __init__(self, root, channels, *, sub_cells):
        super().__init__(root, 16)
        self.channels, self.sub_cells = channels, sub_cells
        wide = channels // 4 if sub_cells else channels
        self.vectors = np.random.default_rng(0).normal(size=(max(NAMES) + 1, wide)).astype(np.float32)
        self.vectors[0] = 0

    def network_input(self, frame):
        path = self.root / frame.scene_id / "label-filt" / f"{frame.frame_id}.png"
        labels = np.asarray(Image.open(path))
        down, right = (((np.arange(224) + 0.5) * size / 224).astype(int) for size in labels.shape)
        return labels[down][:, right]

    def feature_maps(self, inputs, image_sizes):
        found = []
        for labels, size in zip(inputs, image_sizes, strict=True):
            ids, place = np.unique(labels, return_inverse=True)
            cells = 28 if self.sub_cells else 14
            share = np.eye(len(ids), dtype=np.float32)[place.reshape(cells, 224 // cells, cells, -1)].mean((1, 3))
            values = torch.from_numpy(share @ self.vectors[ids]).permute(2, 0, 1)
            values = nnf.pixel_unshuffle(values, 2) if self.sub_cells else values
            found.append(FeatureMap(values, resize_affine(size, (14, 14))))
        return found


def config_of(*overrides):
    """The configuration that ``clipfeat-extract`` would compose."""
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_object(compose("extract", list(overrides)))
