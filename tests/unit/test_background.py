"""Writing beside the computation: in order, bounded, and no error lost."""

import threading
import time

import pytest
import torch

from horizons.store.background import QUEUE_LENGTH, Background


def fields(value):
    return {1: {"logits": torch.full((1, 3), float(value))}}


def test_everything_is_called_in_order_before_the_end():
    called = []
    with Background() as background:
        for number in range(20):
            background.call_with(
                fields(number), lambda n, got: called.append((n, got[1]["logits"].sum().item())), number
            )
            background.call(called.append, number)
    assert called == [entry for number in range(20) for entry in ((number, 3.0 * number), number)]


def test_the_caller_goes_on_while_it_is_written_but_not_further_than_the_queue():
    begun, gate, called = threading.Event(), threading.Event(), []

    def write(*_):
        begun.set()
        gate.wait(10)

    def call(background):
        for number in range(QUEUE_LENGTH + 2):
            background.call_with(fields(0), write)
            called.append(number)

    with Background() as background:
        caller = threading.Thread(target=call, args=(background,))
        caller.start()
        assert begun.wait(10)
        time.sleep(0.2)
        assert called == list(range(QUEUE_LENGTH))
        gate.set()
        caller.join(10)
    assert called == list(range(QUEUE_LENGTH + 2))


@pytest.mark.parametrize("calls", [1, 10])
def test_what_fails_in_the_thread_is_raised(calls):
    def write(*_):
        raise OSError("full")

    def write_all():
        with Background() as background:
            for _ in range(calls):
                background.call(write)

    with pytest.raises(OSError, match="full"):
        write_all()


def test_an_error_of_the_caller_is_the_one_that_is_raised():
    def fail():
        with Background() as background:
            background.call(lambda: None)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
