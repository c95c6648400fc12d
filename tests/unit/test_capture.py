"""Writing beside the computation: in order, bounded, and no error lost."""

import threading
import time

import pytest
import torch

from horizons.store.background import QUEUE_LENGTH, BackgroundWriter


def test_everything_is_written_in_order_before_the_end():
    written = []
    with BackgroundWriter(
        lambda samples, first, logits: written.append((samples, first, logits.sum().item()))
    ) as writer:
        for number in range(20):
            writer([number], number, torch.full((1, 1, 3), float(number)), torch.zeros(1))
            writer.then(written.append, number)
    expected = [entry for number in range(20) for entry in (([number], number, 3.0 * number), number)]
    assert written == expected


def test_the_caller_goes_on_while_it_is_written_but_not_further_than_the_queue():
    begun, gate, called = threading.Event(), threading.Event(), []

    def write(*_):
        begun.set()
        gate.wait(10)

    def call(writer):
        for number in range(QUEUE_LENGTH + 2):
            writer([0], number, torch.zeros(1, 1, 1), torch.zeros(1))
            called.append(number)

    with BackgroundWriter(write) as writer:
        caller = threading.Thread(target=call, args=(writer,))
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
        with BackgroundWriter(write) as writer:
            for _ in range(calls):
                writer([0], 0, torch.zeros(1, 1, 1), torch.zeros(1))

    with pytest.raises(OSError, match="full"):
        write_all()


def test_an_error_of_the_caller_is_the_one_that_is_raised():
    def fail():
        with BackgroundWriter(lambda *_: None) as writer:
            writer([0], 0, torch.zeros(1, 1, 1), torch.zeros(1))
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
