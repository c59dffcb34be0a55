import math

import pytest

from effchal.budget import WallClock, lr_factor
from effchal.choices import Schedule


class Clock:
    def __init__(self):
        self.t = 0.0

    def __call__(self):
        return self.t


def test_stops_before_the_reserve():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=20, now=now)
    steps = 0
    while clock.can_start_step():
        now.t += 7.0
        steps += 1
        clock.lap()
    assert steps == 11
    assert now.t + 20 <= 100


def test_the_slowest_step_is_held_back():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=0, now=now)
    for seconds in (1.0, 30.0, 1.0):
        now.t += seconds
        clock.lap()
    now.t = 69.0
    assert clock.can_start_step()
    now.t = 70.0
    assert not clock.can_start_step()


def test_seconds_of_earlier_processes_count():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=10, spent_before_s=85, now=now)
    assert clock.can_start_step()
    now.t = 5.0
    assert clock.spent_s() == 90
    assert not clock.can_start_step()


def test_what_is_held_back_adds_to_the_reserve_and_start_up_is_no_step():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=10, now=now)
    now.t = 40.0  # loading
    clock.start_lap()
    clock.hold_back(30.0)
    now.t = 45.0
    clock.lap()
    assert clock.slowest_lap_s == 5.0
    assert clock.can_start_step()
    now.t = 55.0
    assert not clock.can_start_step()


@pytest.mark.parametrize("schedule", list(Schedule))
def test_warm_up_rises_to_the_peak_and_never_starts_at_zero(schedule):
    factors = [lr_factor(step, 100, 10, schedule, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(factors) == factors[10] == 1.0


def test_schedules_end_at_the_floor_at_the_last_step():
    for schedule in (Schedule.cosine, Schedule.linear):
        factors = [lr_factor(step, 50, 5, schedule, 0.1) for step in range(50)]
        assert factors[-1] == pytest.approx(0.1)
        assert factors[5:] == sorted(factors[5:], reverse=True)
    assert lr_factor(27, 50, 5, Schedule.linear, 0.0) == pytest.approx(0.5)
    assert lr_factor(27, 50, 5, Schedule.cosine, 0.0) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert lr_factor(49, 50, 5, Schedule.constant, 0.1) == 1.0


def test_a_run_of_nothing_but_warm_up_has_a_rate():
    assert [lr_factor(step, 3, 100, Schedule.cosine, 0.1) for step in range(3)] == pytest.approx([0.01, 0.02, 0.03])
    assert lr_factor(0, 1, 0, Schedule.cosine, 0.1) == 1.0
