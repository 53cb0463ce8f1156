"""A thread that ends by an exception says so."""

import logging

from moe_serving.threads import SupervisedThread


def test_an_exception_is_logged_and_kept(caplog):
    def body():
        raise KeyError("lost")

    thread = SupervisedThread("worker", body)
    thread.start()
    thread.join(10)
    assert thread.failure == "thread worker has ended: KeyError: 'lost'"
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.exc_info[0] is KeyError


def test_an_end_that_was_meant_is_none():
    thread = SupervisedThread("worker", lambda: None)
    thread.start()
    thread.join(10)
    assert thread.failure is None and thread.daemon
