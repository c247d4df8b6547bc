import pytest

from clipfeat.config import folder
from clipfeat.errors import ConfigError


def test_the_yaml_files_are_found_beside_the_package_or_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "__file__", str(tmp_path / "site" / "clipfeat" / "config" / "folder.py"))
    with pytest.raises(ConfigError, match="the installation is incomplete"):
        folder.config_dir()
    for place in (tmp_path / "site" / "conf", tmp_path / "site" / "clipfeat" / "conf"):  # checkout, then wheel
        place.mkdir(parents=True)
        (place / "extract.yaml").touch()
        assert folder.config_dir() == place
