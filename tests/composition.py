"""Compositions by Hydra that are remembered: most of the time of a command on small scans is to put its configuration
together, and of a thousand of them nearly all are of the same files.

What is remembered is what the files alone make: which of them are taken, by the choices of groups, and what they hold
merged. Values are put into a copy of that, by Hydra as ever. Programs in processes of their own go the long way.
"""

import copy
from pathlib import Path

from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_store import ConfigStore

from clipfeat.config.folder import config_dir

_lists, _configs = {}, {}
_create = config_loader_impl.create_defaults_list
_compose = config_loader_impl.ConfigLoaderImpl._compose_config_from_defaults_list


def _world(repo):
    """What the files and the store are; None where there are others than clipfeat's own, which a test may change."""
    for source in repo.get_sources():
        if source.scheme() == "file" and Path(source.path) != config_dir():
            return None
    return frozenset(_stored(ConfigStore.instance().repo, ""))


def _stored(nodes, group):
    for name, node in nodes.items():
        if isinstance(node, dict):
            yield from _stored(node, f"{group}/{name}")
        else:
            yield group, name, id(node.node)


def create_defaults_list(repo, config_name, overrides_list, prepend_hydra, skip_missing):
    """In place of Hydra's function of this name."""
    world = _world(repo)
    if world is None:
        return _create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    choices = tuple(one.input_line for one in overrides_list if repo.group_exists(one.key_or_group))
    key = world, config_name, choices, prepend_hydra, skip_missing
    if key not in _lists:
        _lists[key] = _create(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        return copy.deepcopy(_lists[key])
    known = _lists[key]
    overrides = Overrides(repo=repo, overrides_list=overrides_list)
    overrides.known_choices = dict(known.overrides.known_choices)
    return DefaultsList(
        defaults=copy.deepcopy(known.defaults), config_overrides=overrides.config_overrides,
        defaults_tree=known.defaults_tree, overrides=overrides,
    )  # fmt: skip


def compose_config_from_defaults_list(self, defaults, repo):
    """In place of Hydra's method of this name."""
    world = _world(repo)
    if world is None:
        return _compose(self, defaults, repo)
    key = world, tuple(map(repr, defaults))
    if key not in _configs:
        _configs[key] = _compose(self, defaults, repo)
    return copy.deepcopy(_configs[key])


def remember(monkeypatch):
    """Lets Hydra compose in this way for a test."""
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", create_defaults_list)
    loader = config_loader_impl.ConfigLoaderImpl
    monkeypatch.setattr(loader, "_compose_config_from_defaults_list", compose_config_from_defaults_list)
