"""Where the YAML files are."""

from pathlib import Path

from clipfeat.errors import ConfigError


def config_dir() -> Path:
    """The folder of the YAML files: inside the package when installed from a wheel, beside it in a checkout.

    Raises:
        ConfigError: If neither exists, so the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "extract.yaml").is_file():
            return candidate
    raise ConfigError(f"no conf/ folder in or beside {package}: the installation is incomplete, install clipfeat again")
