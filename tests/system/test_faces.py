import sys

import pytest

from clipfeat.system.faces import lazily


def test_a_name_is_imported_when_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").write_text(
        "from clipfeat.system.faces import lazily\n__getattr__, __all__ = lazily(__name__, room=['Door', 'WIDTH'])\n"
    )
    (tmp_path / "house" / "room.py").write_text("class Door: ...\n\nWIDTH = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import house

    assert house.__all__ == ["Door", "WIDTH"]
    assert "house.room" not in sys.modules
    from house import WIDTH, Door

    assert (Door.__module__, WIDTH) == ("house.room", 3)


def test_a_name_that_is_not_handed_on_is_none():
    find, names = lazily("clipfeat.camera", projection=["world_to_cam"])
    assert names == ["world_to_cam"]
    with pytest.raises(AttributeError, match="module 'clipfeat.camera' has no attribute 'to_fahrenheit'"):
        find("to_fahrenheit")
