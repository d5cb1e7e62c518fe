import pytest

from visage.pipeline.plan import Plan

NEEDS = {
    "data": set(),
    "train@long": {"data"},
    "train@short": {"data"},
    "train@middle": {"data"},
    "evaluate@long": {"train@long", "data"},
    "evaluate@short": {"train@short", "data"},
    "evaluate@middle": {"train@middle", "data"},
}
SECONDS = {"train@long": 90, "train@short": 10, "train@middle": 30}


def order(plan, fail=()):
    """The stages in the order in which one worker runs them."""
    ran = []
    while ready := plan.ready():
        plan.started.add(ready[0])
        (plan.failed if ready[0] in fail else plan.done).add(ready[0])
        ran.append(ready[0])
    return ran


def test_a_model_is_measured_before_the_next_is_trained_the_quickest_first_and_then_the_longest():
    assert order(Plan(NEEDS, SECONDS)) == [
        "data",
        *("train@short", "evaluate@short"),
        *("train@long", "evaluate@long"),
        *("train@middle", "evaluate@middle"),
    ]


def seconds_with(slots, plan, seconds):
    """The time in which so many workers do all of a plan."""
    now, running = 0, []
    while True:
        while len(running) < slots and (ready := plan.ready(slots)):
            plan.started.add(ready[0])
            running.append((now + seconds[ready[0]], ready[0]))
        if not running:
            return now
        running.sort()
        now, ended = running.pop(0)
        plan.done.add(ended)


@pytest.mark.parametrize("slots", [2, 4, 8])
def test_workers_are_busy_until_near_the_end(slots):
    needs = {f"train@{i}": set() for i in range(22)} | {f"evaluate@{i}": {f"train@{i}"} for i in range(22)}
    seconds = {f"train@{i}": 20 + 2 * i for i in range(22)} | {f"evaluate@{i}": 8 + 0.4 * i for i in range(22)}
    best = sum(seconds.values()) / slots
    assert seconds_with(slots, Plan(needs, seconds), seconds) < 1.05 * best


def test_no_long_evaluation_is_left_alone_at_the_end():
    needs = {f"train@{i}": set() for i in range(22)} | {f"evaluate@{i}": {f"train@{i}"} for i in range(22)}
    seconds = {f"train@{i}": 30 + 3 * i for i in range(22)} | {f"evaluate@{i}": 12 for i in range(22)}
    seconds |= {f"evaluate@{i}": 80 for i in (9, 11, 13)}
    best = sum(seconds.values()) / 2
    assert seconds_with(2, Plan(needs, seconds), seconds) < 1.005 * best  # 1.013 where only trainings are compared


def test_what_a_failed_stage_does_not_concern_still_runs():
    plan = Plan(NEEDS, SECONDS)
    assert "evaluate@long" not in order(plan, fail={"train@long"})
    assert plan.blocked() == ["evaluate@long"]
    assert plan.done == NEEDS.keys() - {"train@long", "evaluate@long"}


def test_a_failure_blocks_all_that_need_it_through_others():
    plan = Plan({"a": set(), "b": {"a"}, "c": {"b"}, "d": set()}, {})
    assert order(plan, fail={"a"}) == ["a", "d"]
    assert plan.blocked() == ["b", "c"]


def test_needs_outside_of_the_plan_count_as_done():
    assert Plan({"b": {"a"}}, {}).ready() == ["b"]


def test_time_left_is_stretched_by_what_stages_really_took():
    plan = Plan({"a": set(), "b": set(), "c": set()}, {"a": 10, "b": 20, "c": 40})
    assert plan.left({}) == 70
    plan.started |= {"a", "b"}
    plan.done.add("a")
    plan.took("a", 20)
    assert plan.left({"b": 15}) == pytest.approx((40 - 15) + 80)
