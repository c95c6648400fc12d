"""Imports without the garbage collector, which works as ever before and after."""

import gc
import weakref

import pytest

from horizons.loading import loading


class Node:
    """An object that can refer to itself."""


def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)


def test_nothing_is_collected_while_packages_are_loaded_and_garbage_is_afterwards():
    assert gc.isenabled()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    made_afterwards = cycle()
    gc.collect()
    assert made_afterwards() is None


def test_the_collector_is_not_asked_to_look_through_what_was_loaded():
    with loading():
        loaded = [[] for _ in range(1000)]
    assert not {id(each) for each in gc.get_objects()} & {id(each) for each in loaded}


def test_an_import_that_fails_leaves_the_collector_at_work():
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
