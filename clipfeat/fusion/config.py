"""All of ``clipfeat-train`` and of ``clipfeat-fit-head``."""

from dataclasses import dataclass, field

from clipfeat.config.checks import at_least, one_of, resume_word
from clipfeat.config.paths import path_key
from clipfeat.data.label_sets import check_label_ids
from clipfeat.errors import ConfigError
from clipfeat.model.config import ModelConfig
from clipfeat.sampling.config import PointsConfig


@dataclass
class TrainConfig:
    """All of ``clipfeat-train``.

    Attributes:
        store: output_dir of a run of clipfeat-extract whose points have colour and labels.
        output_dir: folder for everything that is written.
        label: name of the points' attribute that is learnt.
        classes_file: CSV of id,name; null takes the labels that the training scenes have, by their numbers.
        labels_ids: names them by a set of ids that is known: scannet, nyu40, scannet20, mpcat40, or a CSV file.
        train_scenes_file: text file with a scene a line; null takes all that are not held out.
        val_scenes_file: scenes that are held out; null takes the last quarter, or all that are not trained on.
        branches: both, or one alone for comparison: 2d or 3d.
        use_tiny_sa_2d: whether the cells of CLIP's maps attend to each other; needs a store of output=grid.
        num_points: points a frame in training; all of a held-out frame are looked at.
        batch_size: frames a step.
        views: frames of one scene that go together, which clip_cons compares; batch_size is a multiple of it.
        steps: of the optimizer.
        learning_rate: the highest.
        weight_decay: of matrices.
        clip_cons_weight: of the loss that keeps fused features near CLIP's and alike over views; 0 leaves it out.
        consistency: of the views: cosine or ntxent.
        eval_every: steps between two looks at the held-out scenes.
        checkpoint_every: steps between two checkpoints.
        use_amp: half precision, on a GPU.
        tensorboard: whether the figures go there too; needs the extra of that name.
        device: auto, cpu, cuda or cuda:<n>.
        seed: of the weights, and of everything that is drawn.
        resume: true goes on from the checkpoint, and refuses a folder of another configuration; overwrite begins anew.
    """

    store: str = path_key()
    output_dir: str = path_key("outputs/train")
    label: str = "label"
    classes_file: str | None = path_key(None)
    labels_ids: str | None = path_key(None)
    train_scenes_file: str | None = path_key(None)
    val_scenes_file: str | None = path_key(None)
    branches: str = "both"
    use_tiny_sa_2d: bool = False
    num_points: int = 2048
    batch_size: int = 4
    views: int = 1
    steps: int = 400
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clip_cons_weight: float = 0.0
    consistency: str = "cosine"
    eval_every: int = 200
    checkpoint_every: int = 50
    use_amp: bool = True
    tensorboard: bool = False
    device: str = "auto"
    seed: int = 0
    resume: str = "true"

    def __post_init__(self) -> None:
        one_of("branches", self.branches, ("both", "2d", "3d"))
        one_of("consistency", self.consistency, ("cosine", "ntxent"))
        for key in ("num_points", "batch_size", "views", "steps", "eval_every", "checkpoint_every"):
            at_least(key, getattr(self, key), 1)
        at_least("learning_rate", self.learning_rate, 0, above=True)
        for key in ("weight_decay", "clip_cons_weight", "seed"):
            at_least(key, getattr(self, key), 0)
        if self.labels_ids is not None:
            check_label_ids("labels_ids", self.labels_ids)
            if self.classes_file is not None:
                raise ConfigError("labels_ids and classes_file are both set: expected one of the two")
        if self.batch_size % self.views:
            raise ConfigError(f"batch_size={self.batch_size}: expected a multiple of views={self.views}")
        self.resume = resume_word(self.resume)
        if not self.output_dir:
            raise ConfigError("output_dir is empty: give a folder for the results")


FIT_METHODS = ("pca", "clip_cons")


TRAINING_STEPS = 200


@dataclass
class FitHeadConfig(PointsConfig):
    """All of ``clipfeat-fit-head``; which frames and points it looks at is told by ``PointsConfig``.

    Labels are not looked at; poses, depth, ``camera`` and ``sampling`` by clip_cons alone, but frames without a pose
    are left out. The scenes should not be those that are tested on later.

    Attributes:
        model: see ModelConfig; its head is that which is fitted.
        method: pca (the principal axes), or clip_cons: trained so that CLIP's tokens follow linearly from the features,
            and one point is alike in two frames. It keeps all tokens in memory, 0.3 MB a frame of a ViT-B-16.
        steps: of training, for clip_cons.
        output_file: safetensors file for the weights; a JSON file of the same name tells what they were fitted to.
        device: auto, cpu, cuda or cuda:<n>.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    method: str = "pca"
    steps: int = TRAINING_STEPS
    frames_per_scene: int | None = 5
    frame_selection: str = "uniform"
    output_file: str = path_key("outputs/head_pca128.safetensors")
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("method", self.method, FIT_METHODS)
        at_least("steps", self.steps, 1)
        if not self.output_file.endswith(".safetensors"):
            raise ConfigError(f"output_file={self.output_file}: expected a .safetensors file")
