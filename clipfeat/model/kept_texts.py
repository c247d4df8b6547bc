"""Vectors of texts that are kept: a text tower takes seconds to load, and what it makes of 200 names is a small file.

A file holds the vectors of one tower. Its name stands for all that they depend on beside the texts: the architecture,
the precision, the hash of the visual tower that belongs to it, and what tells the weights from others without reading
them: files by path, size and time, names by themselves and open_clip's version, random ones by their seed. A vector is
found again by its texts, so that other words of a template are another vector.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfeat.config import paths
from clipfeat.errors import ConfigError, OutputError
from clipfeat.model.base import Model
from clipfeat.model.pretrained import Logits
from clipfeat.model.text import TextEncoder, fill_templates, load_text_encoder
from clipfeat.model.weights import FOLDER, HUB, arch_name
from clipfeat.system.atomic import atomic_file, locked

log = logging.getLogger(__name__)

TEXTS_VERSION = 1
"""Goes up when the same weights and texts give other vectors, or files are laid out otherwise."""


@dataclass(frozen=True, eq=False)
class _Vectors:
    """What a file holds: vectors (D,) float32 by the digest of their texts."""

    logits: Logits
    rows: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)


class KeptTexts:
    """Stands in for ``TextEncoder``: the tower is loaded only for texts whose vectors aren't kept yet.

    Args:
        load: loads the tower.
        weights_sha256: of the visual tower of the features that texts are compared to. Of another one nothing is kept.
        path: file of the vectors; None keeps nothing.
    """

    def __init__(self, load: Callable[[], TextEncoder], weights_sha256: str, path: Path | None):
        self._load, self._wanted, self._path = load, weights_sha256, path
        self._tower: TextEncoder | None = None
        self._kept = None if path is None else _read(path)

    @property
    def weights_sha256(self) -> str:
        """Of the visual tower that belongs to it; what is kept belongs to the one that is wanted."""
        return self._wanted if self._tower is None else self._tower.weights_sha256

    @property
    def logits(self) -> Logits:
        """See ``Texts``.

        Raises:
            WeightsError: If the tower is needed and can't be had.
        """
        return self._loaded().logits if self._kept is None else self._kept.logits

    def encode_text(self, prompts: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
        """See ``Texts``.

        Raises:
            ConfigError: If a text can't be used.
            WeightsError: If the tower is needed and can't be had.
        """
        texts = fill_templates(prompts, templates)
        keys = [_digest(one) for one in texts]
        rows = {} if self._kept is None else dict(self._kept.rows)
        new = {key: one for key, one in zip(keys, texts, strict=True) if key not in rows}
        made = {key: self._loaded().encode_mean(one) for key, one in new.items()}
        if made:
            self._keep(made)
        rows |= made
        return np.stack([rows[key] for key in keys])

    def _loaded(self) -> TextEncoder:
        if self._tower is None:
            self._tower = self._load()
        return self._tower

    def _keep(self, made: dict[bytes, NDArray[np.float32]]) -> None:
        if self._path is None or self._loaded().weights_sha256 != self._wanted:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._path.parent):  # another process may have added some since
                there = _read(self._path, tell=False)
                self._kept = _Vectors(self._loaded().logits, (there.rows if there else {}) | made)
                _write(self._path, self._kept)
        except (OutputError, OSError) as error:
            log.warning("WARNING text_cache: %s; these texts will be encoded again next time", error)


def _digest(texts: list[str]) -> bytes:
    return sha256(json.dumps(texts).encode()).hexdigest()[:32].encode()


def _read(path: Path, *, tell: bool = True) -> _Vectors | None:
    """What a file holds; None where there is none, or a damaged one, which is told."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip file: it has checksums of its own
            keys, vectors, (scale, bias) = file["texts"], file["vectors"], file["logits"].tolist()
        if vectors.dtype != np.float32 or vectors.ndim != 2 or keys.shape != vectors.shape[:1] or keys.dtype != "S32":
            raise ValueError("its arrays do not fit each other")
        return _Vectors(
            Logits(scale or None, None if math.isnan(bias) else bias), dict(zip(keys.tolist(), vectors, strict=True))
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything
        if tell:
            log.warning("WARNING text_cache: %s is damaged, and is made again (%s)", path, error)
        return None


def _write(path: Path, kept: _Vectors) -> None:
    scale, bias = kept.logits
    with atomic_file(path) as file:
        np.savez(
            file,
            texts=np.array(list(kept.rows), "S32"),
            vectors=np.stack(list(kept.rows.values())),
            logits=np.array([scale or 0.0, np.nan if bias is None else bias]),
        )


def open_texts(
    arch: str, pretrained: str | None, about: Mapping[str, Any], *, seed: int, cache: str | None
) -> KeptTexts:
    """The text tower of the model that made features, which is loaded when it is needed.

    Args:
        arch: see ``weights.find_weights``.
        pretrained: see ``weights.find_weights``; not looked at for features of random weights.
        about: ``describe()`` of the model that made the features.
        seed: of random weights.
        cache: see ``text_folder``.

    Raises:
        ConfigError: If ``cache`` is empty.
    """
    # Random weights are those of the seed, also where a run only fell back to them.
    given = None if about["weights"] == "random" else pretrained

    def load() -> TextEncoder:
        size = about["window"] or about["input_size"]
        return load_text_encoder(arch, given, input_size=size, precision=about["precision"], seed=seed)

    folder = text_folder(cache)
    path = None if folder is None else folder / _file_name(arch, given, about, seed)
    return KeptTexts(load, str(about["weights_sha256"]), path)


@dataclass(frozen=True)
class WeightsFrom:
    """Where a model's weights came from, so that its text tower can be had, too.

    Attributes:
        arch: as ``model.arch`` said it.
        pretrained: as ``model.pretrained`` said it.
        seed: of random weights.
    """

    arch: str
    pretrained: str | None
    seed: int

    @classmethod
    def of(cls, model: Model) -> "WeightsFrom | None":
        """Those of a model that ``load_model`` returned; None where it does not say."""
        cfg, seed = getattr(model, "cfg", None), getattr(model, "seed", None)
        return None if cfg is None else cls(cfg.arch, cfg.pretrained, seed or 0)

    def texts(self, about: dict[str, Any], cache: str | None = None) -> KeptTexts:
        """The text tower of the model that ``about`` describes; see ``open_texts``."""
        # A folder is written by its name alone; where it lies the configuration says.
        arch = self.arch if arch_name(self.arch) == about["arch"] else str(about["arch"])
        return open_texts(arch, self.pretrained, about, seed=self.seed, cache=cache)


def text_folder(cache: str | None) -> Path | None:
    """The folder that ``text_cache=…`` means: null is ``clipfeat/texts`` in the user's cache folder, none is none.

    Raises:
        ConfigError: If it is empty.
    """
    if cache == "":
        raise ConfigError(
            "text_cache is empty: give a folder, none to keep nothing, or null for the user's cache folder"
        )
    if cache == "none":
        return None
    if cache is not None:
        return Path(paths.with_home(cache))
    folder = paths.user_cache()
    return None if folder is None else folder / "clipfeat" / "texts"


def _file_name(arch: str, pretrained: str | None, about: Mapping[str, Any], seed: int) -> str:
    known = {
        "version": TEXTS_VERSION,
        "arch": arch_name(arch),
        "weights": about["weights"],
        "weights_sha256": about["weights_sha256"],
        "precision": about["precision"],
        "seed": seed if about["weights"] == "random" else None,
        "pretrained": None if Path(pretrained or "").exists() else pretrained,
        "files": _stamps(arch, pretrained),
        "packages": [_version(name) for name in ("open_clip_torch", "transformers")],
    }
    digest = sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', arch_name(arch))}-{digest}.npz"


def _stamps(*places: str | None) -> list[tuple[str, int, int]]:
    """Path, bytes and time of the files that architecture and weights are told by."""
    found: list[tuple[str, int, int]] = []
    for place in places:
        path = Path((place or "").removeprefix(FOLDER))
        if not place or place.startswith(HUB) or not path.exists():
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with suppress(OSError):
                status = file.stat()
                found.append((str(file.resolve()), status.st_size, status.st_mtime_ns))
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
