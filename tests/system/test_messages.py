import logging

import pytest

from clipfeat.system.messages import root_logger_kept


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
