import gc
import weakref

import pytest

import glow_tf
from glow_tf._gc import importing, paused


@pytest.fixture(autouse=True)
def only_new_objects():
    """Leaves what other tests made, seconds of a collection's time, to no collection."""
    gc.freeze()


class Cyclic:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


def test_nothing_is_collected_meanwhile_and_all_afterwards():
    with paused():
        watched = weakref.ref(Cyclic())
        others = [[] for _ in range(10 * gc.get_threshold()[0])]  # enough for a collection
        assert watched() is not None
    assert gc.isenabled() and others
    gc.collect()
    assert watched() is None


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_what_a_first_import_makes_is_not_looked_through_again_and_older_garbage_goes():
    older = weakref.ref(Cyclic())
    frozen = gc.get_freeze_count()
    with importing("a module that nobody has imported"):
        made = [[] for _ in range(1000)]
    assert older() is None
    assert gc.get_freeze_count() >= frozen + len(made)


def test_a_second_import_changes_nothing():
    frozen = gc.get_freeze_count()
    others = [[] for _ in range(100)]
    with importing("gc"):
        assert gc.isenabled()
    # Not equal, because frozen objects may be deleted meanwhile.
    assert gc.get_freeze_count() <= frozen and others


def test_the_packages_names_are_looked_up_once():
    assert glow_tf.GlowConfig is vars(glow_tf)["GlowConfig"]
