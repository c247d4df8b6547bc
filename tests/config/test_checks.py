import math

import pytest

from clipfeat.config.checks import at_least, check_points_file, check_size, listed, must_say, one_of, resume_word
from clipfeat.errors import ConfigError


def test_what_is_right_passes():
    one_of("key", "a", ("a", "b"))
    must_say("key", "b", ("a", "b"))
    for value in (None, 1, 1.0, math.inf):
        at_least("key", value, 1)
    at_least("key", 1e-9, 0, above=True)
    for size in (None, [1296, 968]):
        check_size("key", size)
    for pattern in (None, "{scene}.ply", "{scene}/points.NPZ"):
        check_points_file("key", pattern)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: one_of("key", "c", ("a", "b")), "key=c: expected one of a, b"),
        (lambda: must_say("key", None, ("a", "b")), "key is not set and has no default: say a or b"),
        (lambda: must_say("key", "c", ("a", "b")), "key=c: expected one of a, b"),
        (lambda: at_least("key", 0, 1), "key=0: expected a number of at least 1"),
        (lambda: at_least("key", 0, 0, above=True), "key=0: expected a number above 0"),
        (lambda: at_least("key", "5cm", 0), "key=5cm: expected a number of at least 0"),
        (lambda: at_least("key", math.nan, 0), "key=nan: expected a number of at least 0"),
        (lambda: check_size("key", [640]), "key=[640]: expected [width,height] in pixels, such as [1296,968]"),
        (lambda: check_size("key", [640, 0]), "key=[640, 0]: expected [width,height] in pixels, such as [1296,968]"),
        (lambda: resume_word("maybe"), "resume=maybe: expected one of true, overwrite"),
        (lambda: listed("key", ["a", ""], str, "words"), "key=['a', '']: expected words"),
        (lambda: listed("key", True, int, "numbers"), "key=True: expected numbers"),
        (lambda: check_points_file("key", "mesh.obj"), "key=mesh.obj: expected a .ply or .npz file"),
    ],
)
def test_what_is_wrong_says_key_value_and_what_was_expected(check, message):
    with pytest.raises(ConfigError) as told:
        check()
    assert str(told.value) == message


@pytest.mark.parametrize(
    ("given", "word"), [(True, "true"), ("True", "true"), (False, "overwrite"), ("overwrite",) * 2]
)
def test_resume_is_a_boolean_or_overwrite(given, word):
    assert resume_word(given) == word


@pytest.mark.parametrize(("given", "values"), [(None, []), ("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_one_value_a_list_or_none(given, values):
    assert listed("key", given, str, "words") == values
