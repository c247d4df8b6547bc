"""All of ``clipfeat-query``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipfeat.config.checks import at_least, listed, one_of
from clipfeat.config.paths import path_key
from clipfeat.errors import ConfigError
from clipfeat.model.config import check_templates

HEATMAPS = ("top", "all", "none")

COMPETING = ("softmax", "relevancy")
"""Scores that are against other texts."""

SCORES = ("auto", "cosine", *COMPETING, "sigmoid")


@dataclass
class ExampleConfig:
    """A place in a picture, to look for more of what is there.

    Attributes:
        scene: its scene.
        frame: its frame's number.
        uv: [u,v], a point in pixels of the original colour picture. It, or ``box``, must be set.
        box: [u0,v0,u1,v1], left, top, right and bottom of a box in the same pixels; the mean of what is in it counts.
    """

    scene: str | None = None
    frame: int | None = None
    uv: list[float] | None = None
    box: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.is_set:
            return
        for key in ("scene", "frame"):
            if getattr(self, key) is None:
                raise ConfigError(f"example.{key} is not set: an example is a place in one frame of one scene")
        if (self.uv is None) == (self.box is None):
            raise ConfigError(f"example.uv={self.uv} example.box={self.box}: expected one of the two")
        if self.uv is not None and len(self.uv) != 2:
            raise ConfigError(f"example.uv={self.uv}: expected [u,v] in pixels")
        if self.box is not None and (len(self.box) != 4 or self.box[0] > self.box[2] or self.box[1] > self.box[3]):
            raise ConfigError(f"example.box={self.box}: expected [left,top,right,bottom] in pixels")

    @property
    def is_set(self) -> bool:
        """Whether there is an example."""
        return any(value is not None for value in (self.scene, self.frame, self.uv, self.box))

    @property
    def place(self) -> list[float]:
        """The point or the box; empty without an example."""
        return self.uv or self.box or []


@dataclass
class QueryConfig:
    """All of ``clipfeat-query``.

    Attributes:
        store: output_dir of clipfeat-extract or of clipfeat-fuse, or one file of the latter.
        text: a prompt, or a list of them, each for itself; for features of ``model/head=text``. Several names of one
            thing have | between them, as in "couch|sofa": their mean is looked for.
        example: instead of text, for features of any head; see ExampleConfig. Of a fused scene, in a frame of ``run``.
        templates: what is put around a prompt: plain (nothing), photo ("a photo of a …") or indoor (the mean over ten);
            or a text file (.txt) of your own, a template a line.
        score: cosine; softmax (of a prompt among itself and the texts of ``against``); relevancy (LERF's: the least of
            the softmaxes against each of these alone); sigmoid (the weights' own probability, of those that were
            trained with the sigmoid loss, such as SigLIP's); or auto: softmax, and cosine where ``against`` is [] or
            an example is looked for.
        against: what softmax and relevancy score each prompt against.
        temperature: what cosines are divided by in softmax, relevancy and sigmoid; null is what the weights learnt
            (1 / logit_scale), or 0.01, which CLIP ends its training with, where they don't tell (random ones too).
        text_cache: folder for the vectors of texts, which are few: a text tower is loaded only for new ones. Null is
            ``clipfeat/texts`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; none keeps nothing.
        scenes: a scene, or a list of them; null takes all.
        top: frames that are shown of each prompt, the best ones.
        heatmaps: which frames get a heat map: top, all or none (and then no contact sheet).
        dpi: resolution of the pictures; a heat map is 10 inches wide.
        output_dir: folder for everything that is written; null is ``<store>/query``.
        run: output_dir of clipfeat-extract, where the store is fused; null is what the fused folder says.
        data_root: where the scans are now, if they moved since the run; null is where they were.
        num_workers: threads that read and compare; null is one a core.
        on_bad_frame: skip (count and list it) or fail (stop).
    """

    store: str = path_key()
    text: Any = None
    example: ExampleConfig = field(default_factory=ExampleConfig)
    templates: str = path_key("plain")
    score: str = "auto"
    against: list[str] = field(default_factory=lambda: ["object", "things", "stuff", "texture"])
    temperature: float | None = None
    text_cache: str | None = path_key(None)
    scenes: Any = None
    top: int = 6
    heatmaps: str = "top"
    dpi: int = 110
    output_dir: str | None = path_key(None)
    run: str | None = path_key(None)
    data_root: str | None = path_key(None)
    num_workers: int | None = None
    on_bad_frame: str = "skip"

    def __post_init__(self) -> None:
        self.text = list(dict.fromkeys(listed("text", self.text, str, "words, such as 'a chair', or a list of them")))
        self.scenes = listed("scenes", self.scenes, str, "the name of a scene, or a list of them")
        if self.output_dir is None:
            store = Path(self.store)
            self.output_dir = str((store.parent if store.suffix == ".npz" else store) / "query")
        check_templates("templates", self.templates)
        one_of("score", self.score, SCORES)
        if self.score in COMPETING and not self.against:
            raise ConfigError(
                f"score={self.score} against=[]: there is no text to be against; say some, or score=cosine"
            )
        if self.example.is_set and self.score not in ("auto", "cosine"):
            raise ConfigError(f"score={self.score}: an example is scored by its cosine; leave it out")
        at_least("temperature", self.temperature, 0, above=True)
        at_least("top", self.top, 1)
        one_of("heatmaps", self.heatmaps, HEATMAPS)
        at_least("dpi", self.dpi, 20)
        at_least("num_workers", self.num_workers, 1)
        one_of("on_bad_frame", self.on_bad_frame, ("skip", "fail"))
