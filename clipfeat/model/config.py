"""What ``model=…``, ``model/head=…`` and ``cache=…`` set."""

from dataclasses import dataclass, field

from clipfeat.config.checks import at_least, one_of
from clipfeat.config.paths import path_key
from clipfeat.errors import ConfigError


@dataclass
class HeadConfig:
    """What is made of the encoder's tokens.

    Attributes:
        name: none (768×14×14), pixelshuffle (192×28×28), proj128 (256×56×56, then 128 a point) or text (512×14×14 in
            the space of the text tower, unit vectors at the points).
        weights: safetensors file of a head that has weights; null seeds them from the run's ``seed``.
    """

    name: str = "none"
    weights: str | None = path_key(None)

    def __post_init__(self) -> None:
        one_of("model.head.name", self.name, HEADS)


HEADS = {
    "none": "clipfeat.model.heads:Head",
    "pixelshuffle": "clipfeat.model.heads:PixelShuffleHead",
    "proj128": "clipfeat.model.heads:Proj128Head",
    "text": "clipfeat.model.heads:TextHead",
}
"""What ``model/head`` can be, and the class of each, imported when needed; it takes the width of the tokens."""


ATTENTIONS = ("vanilla", "maskclip", "sclip", "clearclip", "naclip", "sc_clip")


REFINEMENTS = ("none", "self_similarity")


BACKENDS = ("torch", "openvino")


PRECISIONS = ("auto", "fp32", "fp16", "bf16")


RESIZE_MODES = ("squash", "letterbox", "crop", "aspect")


PREPROCESSES = ("published", "clip")


SOURCES = ("open_clip", "timm")


TIMM = "timm:"
"""What stands before the name of a timm model wherever one name says which encoder it is, as in model.json."""


INTERPOLATIONS = ("bicubic", "bilinear")


CLIP_SIZE = 224
"""Side in pixels of the input of most of CLIP's models, and of all of them by ``model.preprocess=clip``."""


@dataclass
class ModelConfig:
    """The frozen image encoder and its head.

    Attributes:
        source: open_clip, or timm for its ViTs alone (DINOv3, DINOv2, PE-Spatial, C-RADIO and others): features without
            a text tower.
        arch: name of an open_clip ViT, such as ViT-B-16; ``hf-hub:<org>/<name>`` or a folder, with weights of its own.
            Of ``source=timm`` timm's name, such as vit_base_patch16_dinov3.lvd1689m, with the tag of its weights.
        pretrained: tag of open_clip's (laion2b_s34b_b88k), a checkpoint file, a folder that holds one, or null for
            seeded random weights (of a hub's model or a folder: its own). Of ``source=timm`` a file, null, or what
            stands here anyway, for the weights that the name says.
        allow_random: go on with random weights, loudly, where the pretrained ones can't be had. For the demo.
        precision: auto is fp16 on a GPU and fp32 on a CPU. bf16 is fast on a CPU that has instructions for it, and many
            times slower on others; fp16 is slow on all.
        backend: torch, or openvino for the tower's blocks on a CPU.
        attention: how the last block attends: vanilla (as it was trained), or maskclip, sclip, clearclip, naclip or
            sc_clip, which make its tokens better dense features in text space, with the same weights. For open_clip's
            own ViTs.
        refine: what becomes of the finished map of tokens, of any encoder: none, or self_similarity (each cell becomes
            a mean of those of the whole map that resemble it).
        preprocess: published (the input's size and the interpolation that the weights were published with), or clip
            (224 pixels and bicubic, whatever the model). Mean and std are the weights' own either way.
        input_size: side of the network's square input in pixels, a multiple of its patch size; with a window, the
            shorter side that the picture is resized to. Null is what ``preprocess`` says.
        resize_mode: squash (ignores the aspect ratio), letterbox (pads) or crop (the centre; points outside it are
            out of view); or aspect, of NaFlex alone: the picture's own aspect ratio, in no more patches than the square
            has. With a window the aspect ratio is kept, and this stays as it is.
        window: side in pixels of a square window that slides over the resized picture, and is all that the network
            sees at once; where windows overlap their tokens are averaged. A multiple of the patch size; null for none.
        stride: pixels from one window to the next, a multiple of the patch size; null is half a window.
        resize: pillow (bit-equal to open_clip's own transform) or torch (the same filter in less than half of the time;
            of 1296×968 pictures one value in 400 is one level off, and the map of a ViT-B/16 with random weights
            differs by a relative 0.001 to 0.0025).
        resize_on: where pictures are resized, to the same bits: cpu, device (where the model runs, so that the cores
            only decode them; of up to 11 megapixels, and by pillow's filter alone), or auto (device on a GPU).
        jpeg: who decodes JPEGs: cpu, or gpu (nvJPEG, where the model runs, which leaves the cores little to do): its
            pixels are slightly others, and it may not see that a file is damaged. Other pictures, and JPEGs that are
            not baseline, are decoded by the cores all the same.
        offload: where maps wait to be sampled: cpu, none (where they were made), or auto (cpu if the GPU has under
            8 GB).
        head: see HeadConfig.
    """

    source: str = "open_clip"
    arch: str = path_key("ViT-B-16")
    pretrained: str | None = path_key("laion2b_s34b_b88k")
    allow_random: bool = False
    precision: str = "auto"
    backend: str = "torch"
    attention: str = "vanilla"
    refine: str = "none"
    preprocess: str = "published"
    input_size: int | None = None
    resize_mode: str = "squash"
    window: int | None = None
    stride: int | None = None
    resize: str = "pillow"
    resize_on: str = "auto"
    jpeg: str = "cpu"
    offload: str = "auto"
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        one_of("model.source", self.source, SOURCES)
        one_of("model.precision", self.precision, PRECISIONS)
        one_of("model.backend", self.backend, BACKENDS)
        one_of("model.attention", self.attention, ATTENTIONS)
        one_of("model.refine", self.refine, REFINEMENTS)
        one_of("model.preprocess", self.preprocess, PREPROCESSES)
        one_of("model.resize_mode", self.resize_mode, RESIZE_MODES)
        one_of("model.resize", self.resize, ("pillow", "torch"))
        one_of("model.resize_on", self.resize_on, ("auto", "cpu", "device"))
        if self.resize_on == "device" and self.resize != "pillow":
            raise ConfigError(
                f"model.resize_on=device model.resize={self.resize}: only pillow's filter is computed there; leave one "
                f"of them out"
            )
        one_of("model.jpeg", self.jpeg, ("cpu", "gpu"))
        if self.jpeg == "gpu" and (self.resize_on == "cpu" or self.resize != "pillow"):
            raise ConfigError(
                f"model.jpeg=gpu model.resize_on={self.resize_on} model.resize={self.resize}: what is decoded on a GPU "
                f"is resized there; leave the others out"
            )
        one_of("model.offload", self.offload, ("auto", "none", "cpu"))
        at_least("model.input_size", self.input_size, 1)
        at_least("model.window", self.window, 1)
        at_least("model.stride", self.stride, 1)
        if self.source == "timm" and self.head.name == "text":
            raise ConfigError(
                f"model/head=text: model.source=timm gives features without a text tower, so {self.arch} has no space "
                f"of texts; take model/head=none, or a model of open_clip such as model=siglip2_b16"
            )
        if self.window is None and self.stride is not None:
            raise ConfigError(f"model.stride={self.stride}: there is no window to move; set model.window, such as 224")
        if self.window is not None:
            self._check_window(self.window)

    def _check_window(self, window: int) -> None:
        if self.input_size is not None and window > self.input_size:
            raise ConfigError(
                f"model.window={window}: larger than the picture's shorter side, model.input_size={self.input_size}"
            )
        if self.stride is not None and self.stride > window:
            raise ConfigError(f"model.stride={self.stride}: leaves gaps between windows of model.window={window}")
        if self.resize_mode != "squash":
            why = "windows see the whole picture in its own aspect ratio; leave it out, or model.window"
            raise ConfigError(f"model.resize_mode={self.resize_mode}: {why}")

    @property
    def encoder(self) -> str:
        """The one name that says which encoder it is: ``arch``, of a timm model with ``timm:`` before it."""
        return f"{TIMM}{self.arch}" if self.source == "timm" else self.arch

    @property
    def network_size(self) -> int:
        """Side in pixels of the square that the network sees at once; ``input_size`` must be known by then."""
        size = self.window or self.input_size
        if size is None:
            raise ValueError("input_size is not known yet; see published.with_input_size")
        return size


CACHES = ("none", "lmdb")


@dataclass
class CacheConfig:
    """Feature maps kept from one run to the next.

    A later run with other points, tolerance or format takes them from there and never loads the model. Maps are kept,
    and with a cache also used the first time, in float16: both runs write the same arrays, which differ from those of
    a run without a cache by that rounding (a relative 5e-4 at most).

    Attributes:
        name: none or lmdb.
        path: folder of the cache; any number of runs, models and data sets may share one. Not on a network disk: LMDB
            does not work there.
    """

    name: str = "none"
    path: str = path_key("outputs/clipfeat_cache.lmdb")

    def __post_init__(self) -> None:
        one_of("cache.name", self.name, CACHES)
        if not self.path:
            raise ConfigError("cache.path is empty: give a folder for the cache")


TEMPLATES = ("plain", "photo", "indoor")
"""What can be put around a prompt; ``clipfeat/model/text.py`` has the words."""


def check_templates(key: str, value: str) -> None:
    """Templates that are known by name, or a text file of one's own.

    Raises:
        ConfigError: If it is none of these.
    """
    if not value.lower().endswith(".txt"):
        one_of(key, value, (*TEMPLATES, "a text file (.txt) of templates, one a line"))
