"""How far a task is: parts of parts, told to whoever waits."""

from __future__ import annotations

import pytest

from probekit._beats import Beat, current, in_turn, reading, working


@pytest.fixture
def told() -> list[float]:
    return []


def test_items_in_turn_take_what_is_left_in_proportion_to_their_weights(told: list[float]) -> None:
    with working(Beat(told.append)):
        for _ in in_turn("ab", [1, 3], then=4):
            pass
        for _ in in_turn("cd"):
            current().of(0.5)(1)
    assert told == [0.125, 0.5, 0.625, 0.75, 0.875, 1, 1]


def test_a_pass_over_the_samples_takes_half_of_what_is_left_of_its_part(told: list[float]) -> None:
    with working(Beat(told.append)):
        for _ in in_turn(range(2)):
            for _ in range(2):
                reading()(1)
    assert told == [0.25, 0.375, 0.5, 0.75, 0.875, 1, 1]


def test_it_never_goes_back(told: list[float]) -> None:
    beat = Beat(told.append)
    beat(0.5)
    beat(0.25)
    assert told == [0.5, 0.5]


def test_parts_without_weight_take_nothing(told: list[float]) -> None:
    with working(Beat(told.append)):
        for _ in in_turn("ab", [0, 0]):
            pass
    assert told == [0, 0, 1]


def test_what_is_left_early_is_done_with_its_task(told: list[float]) -> None:
    with working(Beat(told.append)):
        whole = current()
        for _ in in_turn(range(4)):
            break
        assert current() is whole
    assert told == [1]


def test_what_is_left_early_again_and_again_goes_no_deeper(told: list[float]) -> None:
    outside = current()
    for _ in range(2000):
        next(in_turn(range(4)))
    assert current() is outside
    with working(Beat(told.append)):
        for _ in range(2000):
            next(in_turn(range(4)))
        current().of(0.5)(1)
    assert told == [0.5, 1]


def test_what_is_left_early_ends_late_without_changing_what_goes_on(told: list[float]) -> None:
    with working(Beat(told.append)):
        left = in_turn(range(2))
        next(left)
        for _ in in_turn(range(2)):
            part = current()
            left.close()
            assert current() is part
    assert current() is not part


def failing(done: list[int]) -> None:
    for each in in_turn(range(4)):
        done.append(each)
        if each:
            raise KeyError


def test_an_error_leaves_nothing_behind(told: list[float]) -> None:
    outside = current()
    with pytest.raises(KeyError), working(Beat(told.append)):
        failing([])
    assert told == [0.25]
    assert current() is outside


def test_who_waits_ends_a_task() -> None:
    def stop(share: float) -> None:
        raise InterruptedError

    done: list[int] = []
    with pytest.raises(InterruptedError), working(Beat(stop)):
        failing(done)
    assert done == [0]
