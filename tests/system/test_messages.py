import logging

import pytest

from clipfeat.system.messages import KeptWarnings, WarningsOnce, root_logger_kept


def test_another_package_s_warning_does_not_set_up_the_root_logger(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a program that has set up nothing
    with root_logger_kept():
        logging.warning("of another package")
    assert root.handlers == []
    assert capsys.readouterr().err == ""
    logging.warning("once more")
    assert len(root.handlers) == 1  # what Python does by itself


def test_a_program_that_has_set_it_up_hears_it(monkeypatch):
    root, heard, handler = logging.getLogger(), [], logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    monkeypatch.setattr(root, "handlers", [handler])

    def fail():
        with root_logger_kept():
            logging.warning("of another package")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert heard == ["of another package"]
    assert root.handlers == [handler]


def test_a_warning_of_several_processes_is_given_once(caplog):
    ours = logging.getLogger("clipfeat.data")
    once, kept = WarningsOnce(), KeptWarnings()
    try:
        ours.warning("WARNING given %s", "here")
        ours.info("no warning")
        once.pass_on(["WARNING given here", "WARNING of one", "WARNING of one"])
        once.pass_on(["WARNING of one", "WARNING of two"])
        assert kept.take() == ["WARNING given here", "WARNING of one", "WARNING of two"]
        assert kept.take() == []
    finally:
        once.close()
        logging.getLogger("clipfeat").removeHandler(kept)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "WARNING given here", "WARNING of one", "WARNING of two",
    ]  # fmt: skip


def test_python_s_last_resort_is_not_silenced(monkeypatch):
    ours = logging.getLogger("clipfeat")
    for logger in (logging.getLogger(), ours):
        monkeypatch.setattr(logger, "handlers", [])  # as in a program that has set up nothing
    once = WarningsOnce()
    assert not ours.hasHandlers()
    once.close()
