import pytest

from clipfeat.errors import ClipfeatError, FrameError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("k.txt: not a matrix; export it again", "k.txt: not a matrix; export it again"),
        ("a  b: Räume, グリッド, 4×4", "a  b: Räume, グリッド, 4×4"),
        (
            "c.yaml: can't be read (at:\n    a: b:\n       ^); delete it",
            "c.yaml: can't be read (at: a: b: ^); delete it",
        ),
        ("0.txt: '\x00\x1b[31m\u2028\x85\t'", "0.txt: '??[31m???'"),
    ],
)
def test_a_message_is_one_printable_line(message, shown):
    assert str(ClipfeatError(message)) == shown


def test_of_a_very_long_message_the_middle_is_left_out():
    message = str(FrameError(f"0.txt: '{'9' * 100_000}' is no number; copy it again"))
    assert len(message) < 1000
    assert message.startswith("0.txt: '999")
    assert message.endswith("999' is no number; copy it again")
    assert " … " in message
