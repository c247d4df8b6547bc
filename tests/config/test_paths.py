from pathlib import Path

import pytest

from clipfeat.config import paths

user_cache = paths.user_cache  # before the tests' own stands in for it


@pytest.mark.parametrize(
    ("xdg", "home", "expected"),
    [("/big/cache", "/home/a", "/big/cache"), ("", "/home/a", "/home/a/.cache"), (None, "/home/a", "/home/a/.cache")],
)
def test_the_user_s_cache_is_where_other_programs_have_theirs(monkeypatch, xdg, home, expected):
    monkeypatch.setenv("HOME", home)
    if xdg is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert user_cache() == Path(expected)
    monkeypatch.setattr(paths, "with_home", lambda path: path)  # nobody's home
    assert user_cache() == (Path(xdg) if xdg else None)
