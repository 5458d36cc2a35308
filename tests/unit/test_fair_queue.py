"""The queue whose sources take turns."""

from hypothesis import given, strategies as st

from att.core.fair_queue import FairQueue


def drain(queue):
    """Return all items in the order of their turns."""
    return [item for _ in range(len(queue)) if (item := queue.pop()) is not None]


def filled(limit, share, items):
    """Return a queue with these items, each of a source named by its first letter; none is displaced."""
    queue = FairQueue(limit, share)
    for item in items:
        assert queue.push(item[0], item) is None
    return queue


def test_turns():
    """Sources take turns; the items of one keep their order."""
    assert drain(filled(9, 9, ["a1", "a2", "a3", "b1", "c1", "b2"])) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert FairQueue(1, 1).pop() is None


def test_share():
    """A source has at most its share."""
    queue = filled(9, 2, ["a1", "a2", "b1"])
    assert queue.push("a", "a3") == "a3"
    assert drain(queue) == ["a1", "b1", "a2"]
    assert FairQueue(0, 0).push("a", "a1") == "a1"


def test_who_gives_way():
    """In a full queue the longest source loses its last item to a shorter one, and no other."""
    queue = filled(4, 3, ["a1", "a2", "a3", "b1"])
    assert queue.push("b", "b2") == "a3"
    assert queue.push("b", "b3") == "b3"
    assert queue.push("c", "c1") == "a2"
    assert queue.push("d", "d1") == "b2"
    assert queue.push("e", "e1") == "e1"
    assert drain(queue) == ["a1", "b1", "c1", "d1"]


def test_discard():
    """A discarded item makes room; what is not there is no error."""
    queue = filled(2, 2, ["a1", "b1"])
    queue.discard("a", "a1")
    queue.discard("a", "a1")
    queue.discard("b", "a1")
    assert queue.push("b", "b2") is None
    assert drain(queue) == ["b1", "b2"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["push", "push", "pop", "discard"]))))
def test_count(steps):
    """The queue never has more than its limit, or more of a source than its share, and loses nothing in silence."""
    queue, inside = FairQueue(5, 3), []
    for number, (source, step) in enumerate(steps):
        item = (source, number)
        if step == "push":
            displaced = queue.push(source, item)
            inside.append(item)
            if displaced is not None:
                inside.remove(displaced)
        elif step == "pop":
            popped = queue.pop()
            assert (popped is None) == (not inside)
            if popped is not None:
                inside.remove(popped)
        else:
            mine = [other for other in inside if other[0] == source]
            if mine:
                queue.discard(source, mine[-1])
                inside.remove(mine[-1])
        assert len(queue) == len(inside) <= 5
        assert all(sum(other[0] == name for other in inside) <= 3 for name in "abcd")
    assert sorted(drain(queue)) == sorted(inside)
