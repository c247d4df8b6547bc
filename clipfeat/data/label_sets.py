"""Whose ids labels can be: what configurations check, while ``label_ids`` knows the ids themselves."""

from clipfeat.config.checks import one_of

LABEL_IDS = ("scannet", "scannet200", "nyu40", "scannet20", "mpcat40")
"""Whose ids labels can be, beside those of a CSV file; clipfeat/data/label_ids.py knows them."""


def check_label_ids(key: str, value: str | None) -> None:
    """A set of ids that is known, or a CSV file; or None.

    Raises:
        ConfigError: If it is none of these.
    """
    if value is not None and not value.lower().endswith(".csv"):
        one_of(key, value, (*LABEL_IDS, "a CSV file of id,name"))
