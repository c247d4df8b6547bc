"""What the tests remember of compositions is what Hydra composes."""

import composition
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl
from hydra.errors import HydraException
from omegaconf import OmegaConf

from clipfeat.cli.schemas import schemas_lent
from clipfeat.config.folder import config_dir


def composed(name, overrides):
    with schemas_lent(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose(name, overrides, return_hydra_config=True), resolve=False)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("extract", []),
        ("extract", ["data=sevenscenes", "model/head=proj128", "sampling=mesh", "output=h5", "vis=pca", "cache=lmdb"]),
        ("extract", ["experiment=demo", "hydra/launcher=basic"]),
        ("fuse", []),
        ("composer", ["data=tum"]),
    ],
)
def test_a_configuration_is_as_if_it_had_not_been_remembered(name, choices, monkeypatch):
    values = [["+fresh=3"], ["+fresh=4", "+other=1"], []]
    remembered = [composed(name, [*choices, *more]) for more in values]
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", composition._create)
    loader = config_loader_impl.ConfigLoaderImpl
    monkeypatch.setattr(loader, "_compose_config_from_defaults_list", composition._compose)
    assert remembered == [composed(name, [*choices, *more]) for more in values]


def test_nothing_is_remembered_of_a_choice_that_there_is_not():
    for _ in range(2):
        with pytest.raises(HydraException, match="nowhere"):
            composed("extract", ["data=nowhere"])
