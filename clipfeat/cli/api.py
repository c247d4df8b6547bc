"""The commands from Python: composed, checked and explained as on the command line, without a process of their own.

The caller's program stays as it is: no logging is set up, no signal is taken, nothing ends the process, and Hydra,
which the caller may be running under, is left as it was found.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipfeat.cli.explain import explain
from clipfeat.cli.schemas import schemas_lent
from clipfeat.cli.typed import as_meant
from clipfeat.config.folder import config_dir
from clipfeat.config.paths import expand_home, literal
from clipfeat.errors import ConfigError
from clipfeat.extraction.config import ExtractConfig
from clipfeat.model.config import ModelConfig
from clipfeat.system.shards import local_rank

if TYPE_CHECKING:
    from clipfeat.model.base import Model
    from clipfeat.model.clip_model import ClipModel

StrPath = str | os.PathLike[str]

_one_at_a_time = threading.Lock()
"""Hydra composes for the whole process, whichever thread asks."""

_DEFAULT_DATA = "scannet"
"""That of conf/extract.yaml. It is not said again, so that an experiment may choose another."""


def extract(
    data_root: StrPath,
    output_dir: StrPath,
    *,
    data: str = _DEFAULT_DATA,
    overrides: Sequence[str] = (),
    model: "Model | None" = None,
) -> dict[str, Any]:
    """Runs ``clipfeat-extract`` in this process. The same call again does what is missing.

    Args:
        data_root: folder that holds one folder a scene.
        output_dir: folder for everything that is written.
        data: layout of the data set, a choice of ``data=``.
        overrides: as on the command line: ``["frames_per_scene=5", "model/head=text"]``. The two
            folders are those above, whatever is said here.
        model: what ``load_model`` returned, to load it once for several calls; the overrides need not tell of it.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ClipfeatError: On anything that the user can mend, in one line; what was written before stays.
        TypeError: If the model is only a name.
    """
    chosen = [] if data == _DEFAULT_DATA else [f"data={data}"]
    folders = {"data.root": os.fsdecode(data_root), "output_dir": os.fsdecode(output_dir)}
    cfg = _configuration("extract", [*chosen, *_texts(overrides)], folders)
    if cfg.check == "only":
        raise ConfigError(
            "check=only: ends without a summary to return; take check=true, or run clipfeat-extract check=only …"
        )
    if cfg.devices not in (None, "1"):
        raise ConfigError(
            f"devices={cfg.devices}: starts processes that are the command's own; run clipfeat-extract devices="
            f"{cfg.devices} …, or call this once a process with shard.index=… and shard.count=…"
        )
    if model is not None:
        _check_model(cfg, model, overrides)
    from clipfeat.extraction.extract import extract as run

    return run(cfg, model)


def fuse(store: StrPath, output_dir: StrPath | None = None, *, overrides: Sequence[str] = ()) -> Path:
    """Runs ``clipfeat-fuse`` in this process. The same call again does what is missing.

    Args:
        store: output_dir of an extraction.
        output_dir: folder for the fused scenes; None is ``<store>/fused``.
        overrides: as on the command line: ``["points=voxel", "voxel_size=0.05"]``.

    Returns:
        The folder of the fused scenes.

    Raises:
        ClipfeatError: On anything that the user can mend, in one line; what was written before stays.
    """
    cfg = _configuration("fuse", _texts(overrides), _folders(store, output_dir))
    from clipfeat.results.fuse import fuse as run

    run(cfg)
    return Path(cfg.output_dir)


def query(
    store: StrPath,
    text: str | Sequence[str] | None,
    output_dir: StrPath | None = None,
    *,
    overrides: Sequence[str] = (),
) -> Path:
    """Runs ``clipfeat-query`` in this process.

    Args:
        store: output_dir of an extraction with ``model/head=text`` or of a fusion of one, or one file of the latter.
        text: what to look for, or a list of several; None where the overrides give an example.
        output_dir: folder for the answers; None is ``<store>/query``.
        overrides: as on the command line: ``["top=3", "templates=indoor"]``.

    Returns:
        The folder of the answers; ``query.json`` in it tells them all.

    Raises:
        ClipfeatError: On anything that the user can mend, in one line.
    """
    texts = text if text is None or isinstance(text, str) else list(text)
    cfg = _configuration("query", _texts(overrides), _folders(store, output_dir) | {"text": texts})
    from clipfeat.queries.ask import query as run

    run(cfg)
    return Path(cfg.output_dir)


def load_model(
    name: str = "vit_b16", *, device: str = "auto", seed: int = 0, overrides: Sequence[str] = ()
) -> "ClipModel":
    """Loads the frozen CLIP and its head.

    Args:
        name: a choice of ``model=``.
        device: auto, cpu, cuda or cuda:<n>.
        seed: of random weights.
        overrides: as on the command line: ``["model/head=text", "model.input_size=336"]``.

    Returns:
        Pictures in, feature maps out; ``extract`` takes it too.

    Raises:
        ClipfeatError: On anything that the user can mend, in one line.
    """
    for override in _texts(overrides):
        if not re.match(r"[+~]*model[./]", override):
            raise ConfigError(f"{override}: says nothing of the model {name}; expected model.<key>=… or model/head=…")
    cfg = _configuration("extract", [f"model={name}", *overrides], {}, only="model")
    from clipfeat.model.load import load_model as load
    from clipfeat.model.load import resolve_device

    return load(cfg, resolve_device(device, local_rank()), seed)


def _folders(store: StrPath, output_dir: StrPath | None) -> dict[str, Any]:
    said = {"store": os.fsdecode(store)}
    return said if output_dir is None else said | {"output_dir": os.fsdecode(output_dir)}


def _texts(overrides: Sequence[str]) -> list[str]:
    """The overrides, if they are what this expects.

    Raises:
        ConfigError: If they are one text, or not texts at all, or speak to the command line.
    """
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise ConfigError(f"overrides={overrides!r}: expected a list of texts, such as ['frames_per_scene=5']")
    for override in overrides:
        if re.match(r"[+~]*hydra[./=]", override):
            raise ConfigError(f"{override}: is for the command line alone; from Python, call once for each value")
    return list(overrides)


def _configuration(name: str, overrides: list[str], values: Mapping[str, Any], *, only: str | None = None) -> Any:
    """What a command would be given.

    Args:
        name: of the primary configuration.
        overrides: as on the command line.
        values: by key what is set as it is, without that grammar: paths and texts may hold anything.
        only: the node that is returned, in place of all.

    Raises:
        ConfigError: If anything is wrong, in the words of the command.
    """
    try:
        with _hydra_lent():
            cfg = compose(name, as_meant(overrides, name))
        for key, value in values.items():
            OmegaConf.update(cfg, key, literal(value))
        expand_home(cfg)
        return OmegaConf.to_object(cfg if only is None else cfg[only])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, name)) from error


@contextmanager
def _hydra_lent() -> Iterator[None]:
    """Lets Hydra compose our configurations, and leaves no trace: the caller may itself run under Hydra."""
    with _one_at_a_time:
        glob, version = GlobalHydra.instance(), VersionBase.instance()
        hydra, base = glob.hydra, version.version_base
        glob.clear()
        job = JobRuntime.instance().get("name")  # which Hydra would give another one
        try:
            with schemas_lent(), initialize_config_dir(str(config_dir()), job_name=job, version_base="1.3"):
                yield
        finally:
            glob.hydra, version.version_base = hydra, base
            GlobalHydra.set_instance(glob)


def _check_model(cfg: ExtractConfig, model: "Model", overrides: Sequence[str]) -> None:
    """Lets the configuration say of a loaded model what it is, for it is written beside the features.

    Raises:
        ConfigError: If the configuration says something else of it.
        TypeError: If it is no model.
    """
    from clipfeat.model.base import check_loaded

    check_loaded(model)
    loaded: ModelConfig | None = getattr(model, "cfg", None)
    if loaded is None:
        return  # a model of the caller's own, who answers for it
    if any(re.match(r"[+~]*(model[./=]|experiment=)", override) for override in overrides):
        from clipfeat.model.published import with_input_size

        said, own = (_keys(with_input_size(of)) for of in (cfg.model, loaded))
        for key in said:
            if said[key] != own[key]:
                raise ConfigError(
                    f"{key}={said[key]}: the given model was loaded with {key}={own[key]}; leave it out, or load the "
                    f"model so"
                )
    cfg.model = loaded
    about, seed = model.describe(), getattr(model, "seed", None)
    seeded = about["weights"] == "random" or (about["head_sha256"] is not None and loaded.head.weights is None)
    if seeded and seed != cfg.seed:
        raise ConfigError(f"seed={cfg.seed}: the given model has random weights of seed={seed}; say the same for both")


def _keys(cfg: ModelConfig) -> dict[str, Any]:
    """What makes a model what it is, by key."""
    plain = asdict(cfg)
    head = plain.pop("head")
    del plain["allow_random"]  # which says nothing of one that is loaded
    return {f"model.{key}": value for key, value in plain.items()} | {f"model.head.{k}": v for k, v in head.items()}
