import io
import logging
import sys

import pytest

from clipfeat.system.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def root(monkeypatch):
    """The root logger, with a handler that writes to ``sys.stderr``."""
    logger = logging.getLogger()
    handler = logging.StreamHandler()
    monkeypatch.setattr(logger, "handlers", [handler])
    return logger


def test_on_a_terminal_messages_are_written_above_the_bar(monkeypatch, root):
    monkeypatch.setattr(sys, "stderr", Terminal())
    own = root.handlers = [logging.StreamHandler(sys.stderr)]
    with progress_bar(3, "frame", "reading") as bar:
        assert not bar.disable
        assert root.handlers != own
        logging.getLogger("clipfeat").warning("a message")
        bar.update(3)
    assert root.handlers == own
    shown = sys.stderr.getvalue()
    assert "reading: 100%" in shown
    assert "3/3" in shown
    assert "a message\n" in shown


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO, True), (Terminal, False)])
def test_where_no_bar_is_shown_the_root_logger_is_left_alone(monkeypatch, root, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    own = list(root.handlers)
    with progress_bar(3, "frame", shown=shown) as bar:
        assert bar.disable
        assert root.handlers == own
        bar.update()
    assert sys.stderr.getvalue() == ""
