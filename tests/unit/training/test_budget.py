import math

import pytest

from effchal.config.choices import Schedule
from effchal.training.budget import WallClock, lr_factor


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
        clock.start_lap()
        now.t += 7.0
        steps += 1
        clock.lap()
    assert steps == 11
    assert now.t + 20 <= 100


def test_the_slowest_step_is_held_back():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=0, now=now)
    for seconds in (1.0, 30.0, 1.0):
        clock.start_lap()
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


def test_the_reserve_is_what_the_end_took_so_far_with_a_factor():
    now = Clock()
    clock = WallClock(limit_s=1000, now=now)
    assert clock.reserve_s() == 20  # for what was never seen
    clock.add_cost("checkpoint", 10.0)
    clock.add_cost("checkpoint", 4.0)
    clock.add_cost("validation", 30.0)
    assert clock.reserve_s() == 20 + 2 * 40
    assert WallClock(limit_s=1e6, now=now).reserve_s() == 60
    given = WallClock(limit_s=1000, reserve_s=7, now=now)
    given.add_cost("validation", 5.0)
    given.add_cost("bundle", 50.0)
    assert given.reserve_s() == 7 + 5


def test_loading_is_no_step():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=40, now=now)
    now.t = 40.0
    clock.start_lap()
    now.t = 45.0
    clock.lap()
    assert clock.slowest_lap_s == 5.0
    assert clock.can_start_step()
    now.t = 55.0
    assert not clock.can_start_step()


def test_the_last_step_may_go_into_the_reserve_but_not_into_what_saving_takes():
    now = Clock()
    clock = WallClock(limit_s=100, now=now)
    assert not clock.can_start_last_step()  # nobody knows how long a step takes
    clock.add_cost("checkpoint", 8.0)
    for seconds in (2.0, 2.0, 50.0):  # a stall
        clock.start_lap()
        now.t += seconds
        clock.lap()
    assert not clock.can_start_step()
    now.t = 87.4
    assert clock.can_start_last_step()
    now.t = 87.5
    assert not clock.can_start_last_step()
    now.t = 89.9
    assert clock.fits_at_end("checkpoint")
    now.t = 90.0
    assert not clock.fits_at_end("checkpoint")
    assert clock.fits_at_end("what took nothing")


def test_a_step_that_stalls_is_cut_while_there_is_time_to_end():
    now = Clock()
    clock = WallClock(limit_s=100, now=now)

    def must_cut(at_s):
        now.t = at_s
        clock.end_micro_batch()
        assert clock.must_cut() == clock.must_cut()  # a question changes nothing
        return clock.must_cut()

    clock.add_cost("validation", 0.5)
    clock.start_lap()
    assert clock.reserve_s() == 3.0  # what saving takes is not known yet
    assert not must_cut(48.5)
    assert must_cut(48.6)
    now.t = 80.0
    clock = WallClock(limit_s=100, spent_before_s=80.0, now=now)
    clock.costs = {"checkpoint": 5.0, "bundle": 3.0}
    clock.start_lap()
    assert not must_cut(82.0)  # one more of 2 s, then 10 s to save
    assert not must_cut(86.0)  # the slowest took 4 s
    assert must_cut(86.5)
    clock.start_lap()
    assert not must_cut(86.5)  # another step


def test_a_slow_step_knows_before_its_update_that_none_can_follow():
    now = Clock()
    clock = WallClock(limit_s=100, now=now)
    clock.start_lap()
    now.t = 2.0
    assert not clock.is_last_step()
    clock.lap()
    clock.costs = {"checkpoint": 5.0, "bundle": 3.0}
    now.t = 60.0
    clock.start_lap()
    now.t = 70.0
    assert not clock.is_last_step()  # 10 s for another one, 18 s in reserve
    now.t = 84.0  # 12 s for a last one of 24 s, as of now the usual length
    assert clock.is_last_step()
    clock.lap()
    assert not clock.can_start_last_step()


def test_periodic_work_waits_beyond_its_share_and_where_it_would_cost_a_step():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=0, now=now)
    now.t = 50.0
    assert clock.affords("validation", 0.1)
    clock.add_cost("validation", 5.0, periodic=True)
    assert not clock.affords("validation", 0.1)
    assert clock.affords("validation", 0.2)
    now.t = 97.0
    assert not clock.affords("validation", 0.2)


def test_progress_is_over_when_no_further_step_can_start():
    now = Clock()
    clock = WallClock(limit_s=100, reserve_s=20, now=now)
    now.t = 10.0
    assert clock.progress(10.0) == 0.0
    clock.start_lap()
    now.t = 14.0
    clock.lap()
    seen = []
    while clock.can_start_step():
        seen.append(clock.progress(10.0))
        now.t += 4.0
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert seen[5] == pytest.approx(24 / 62)
    assert clock.progress(95.0) == 1.0


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
    assert lr_factor(27, 50, 5, Schedule.cosine, 0.0) == pytest.approx(
        (1 + math.cos(math.pi / 2)) / 2
    )
    assert lr_factor(49, 50, 5, Schedule.constant, 0.1) == 1.0


def test_a_run_of_nothing_but_warm_up_has_a_rate():
    assert [lr_factor(step, 3, 100, Schedule.cosine, 0.1) for step in range(3)] == pytest.approx(
        [0.01, 0.02, 0.03]
    )
    assert lr_factor(0, 1, 0, Schedule.cosine, 0.1) == 1.0


@pytest.mark.parametrize("schedule", [Schedule.cosine, Schedule.linear])
def test_time_decides_where_it_is_further_on_than_the_steps(schedule):
    by_steps = [lr_factor(step, 100, 10, schedule, 0.1) for step in range(100)]
    in_time = [
        lr_factor(step, 100, 10, schedule, 0.1, time_progress=step / 100) for step in range(100)
    ]
    assert in_time == by_steps  # to the bit
    late = [
        lr_factor(step, 1000, 10, schedule, 0.1, time_progress=min(1.0, step / 99))
        for step in range(100)
    ]
    assert late[:8] == pytest.approx(by_steps[:8])
    assert late[9:] == sorted(late[9:], reverse=True)
    assert late[-1] == pytest.approx(0.1)
    assert lr_factor(3, 1000, 10, schedule, 0.1, time_progress=1.0) == pytest.approx(
        0.1
    )  # still warming up


@pytest.mark.parametrize("times_slower", [1, 2, 3])
def test_the_quick_start_keeps_time_for_its_last_validation(times_slower):
    now = Clock()
    clock = WallClock(limit_s=0.075 * 3600, now=now)

    def work(seconds, cost=None):
        now.t += seconds * times_slower
        if cost is not None:
            clock.add_cost(cost, seconds * times_slower)

    work(12.0)  # imports, data and model
    work(8.0, "validation")
    work(2.0, "samples")
    steps = 0
    while steps < 44 and (clock.can_start_step() or clock.can_start_last_step()):
        clock.start_lap()
        for _ in range(4):
            work(1.0)
            clock.end_micro_batch()
        steps += 1
        clock.lap()
        if steps == 1:
            work(0.5, "checkpoint")
            work(0.5, "bundle")
    work(1.0)  # the last save
    assert steps > 10
    assert clock.fits_at_end("validation")
    work(8.0)
    if clock.fits_at_end("samples"):
        work(2.0)
    assert clock.spent_s() < clock.limit_s
