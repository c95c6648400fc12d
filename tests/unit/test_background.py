"""Writing beside the computation: in order, bounded, and no error lost."""

import threading
import time

import pytest
import torch

from horizons.store.background import QUEUE_LENGTH, Background, HostCopies


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


def fields_of_a_timestep(number, rows):
    """Of several dtypes and shapes, as capture modes have them; some are empty."""
    made = torch.Generator().manual_seed(number)
    logits = torch.randn(rows, 37, generator=made).bfloat16()
    return {
        1: {"logits": logits, "token_ids": torch.randint(99, (rows, 5), generator=made).int()},
        4: {"logits": logits[::2], "logsumexp": torch.randn(rows, generator=made).double()},
        8: {"logits": logits[:0]},
    }


def test_copies_are_those_of_the_fields_and_need_no_more_buffers_than_are_under_way_at_once():
    """Here from host to host, in ordinary memory; what is taken stays as it is when its buffer is used again."""
    copies, under_way, taken = HostCopies(), [], []
    for number in range(200):
        with torch.inference_mode(number % 2 == 0):
            under_way.append(copies.start(fields_of_a_timestep(number, rows=4 - number // 60)))
        if len(under_way) > QUEUE_LENGTH + 1:
            taken.append(under_way.pop(0)())
    taken += [finish() for finish in under_way]
    assert copies.buffers_made == QUEUE_LENGTH + 2
    for number, found in enumerate(taken):
        expected = fields_of_a_timestep(number, rows=4 - number // 60)
        assert {horizon: list(named) for horizon, named in found.items()} == {
            1: ["logits", "token_ids"],
            4: ["logits", "logsumexp"],
            8: ["logits"],
        }
        for horizon, named in expected.items():
            for name, values in named.items():
                assert found[horizon][name].dtype == values.dtype
                assert torch.equal(found[horizon][name], values)


def test_a_buffer_that_is_too_small_is_replaced_and_those_that_fit_are_kept():
    copies = HostCopies()
    for rows in (2, 2, 50, 50, 3, 50):
        copies.start(fields_of_a_timestep(0, rows))()
    assert copies.buffers_made == 2
