"""The harness of the comparisons: turns, ratios of pairs, memory of each child, one line when a child dies."""

import os
import sys

import pytest

from benchmarks.arms import (
    Arm,
    ArmError,
    Iteration,
    Measured,
    Work,
    compare,
    cpu_ratio,
    memory_ratio,
    require,
    speed_ratio,
    spread,
    table,
    turn,
)

HERE = "tests.unit.test_arms"


def steady(settings):
    """An arm that says how fast it is."""
    print("a library prints")
    print("and another", file=sys.stderr)
    held = []

    def run(number):
        held.append(bytearray(settings.get("mib", 0) << 20))
        figures = {"number": number, "threads": settings["threads"]}
        return Work(tokens=100.0 * number, wall_s=settings["wall_s"], inputs=settings.get("inputs", "same"), figures=figures)

    return run


def fragile(settings):
    """An arm that dies while setting up or in a round."""
    if "dies_at" not in settings:
        raise RuntimeError("no such model")

    def run(number):
        if number == settings["dies_at"]:
            if settings.get("signal"):
                os.kill(os.getpid(), settings["signal"])
            print("killed by its own hand", file=sys.stderr, flush=True)
            os._exit(7)
        return Work(tokens=1.0)

    return run


def measured(name, speeds, peak=100):
    iterations = tuple(Iteration(tokens=speed, wall_s=1.0, cpu_s=2.0, inputs="", figures={}) for speed in speeds)
    return Measured(name=name, iterations=iterations, loaded_bytes=50, peak_bytes=peak)


def test_every_arm_runs_the_same_rounds_in_its_own_process_and_warmups_do_not_count():
    fast = Arm(name="fast", function=f"{HERE}:steady", settings={"wall_s": 0.5, "mib": 8}, threads=2)
    slow = Arm(name="slow", function=f"{HERE}:steady", settings={"wall_s": 2.0})
    a, b = compare([fast, slow], pairs=3, warmups=1, timeout_s=60)
    assert [i.figures["number"] for i in a.iterations] == [i.figures["number"] for i in b.iterations] == [1, 2, 3]
    assert (a.figure("threads"), b.figure("threads")) == (2, 1)
    assert (a.wall_s, a.tokens_per_s) == (0.5, 400.0)
    assert speed_ratio(a, b).median == 4.0
    assert a.peak_bytes - b.peak_bytes > 3 * (8 << 20)
    text = table([a, b], rival=b)
    assert "| fast | 400.00 (300.00-500.00) | 0.50 | 0.0" in text
    assert text.splitlines()[-1].endswith("| 1 | 1 | 1 |")


def test_a_child_that_dies_is_one_line():
    with pytest.raises(ArmError, match=r"^arm b: ended with status 1: RuntimeError: no such model$"):
        compare([Arm(name="b", function=f"{HERE}:fragile")], timeout_s=60)
    with pytest.raises(ArmError, match=r"^arm b: ended with status 7: killed by its own hand$"):
        compare([Arm(name="b", function=f"{HERE}:fragile", settings={"dies_at": 1})], timeout_s=60)
    with pytest.raises(ArmError, match=r"^arm b: killed by signal 9 \(out of memory\?\)$"):
        compare([Arm(name="b", function=f"{HERE}:fragile", settings={"dies_at": 0, "signal": 9})], timeout_s=60)
    with pytest.raises(ArmError, match="ended with status 1: ModuleNotFoundError"):
        compare([Arm(name="b", function="benchmarks.nowhere:arm")], timeout_s=60)


def test_arms_that_worked_on_different_inputs_are_refused():
    arms = [Arm(name=name, function=f"{HERE}:steady", settings={"wall_s": 1.0, "inputs": name}) for name in ("a", "b")]
    with pytest.raises(ArmError, match=r"^arms a, b did not work on the same input$"):
        compare(arms, timeout_s=60)


def test_a_child_that_hangs_is_one_line():
    with pytest.raises(ArmError, match="no answer in 0 s"):
        compare([Arm(name="b", function=f"{HERE}:steady", settings={"wall_s": 1.0})], timeout_s=0.0)


def test_turns_reverse_each_round():
    assert [list(turn(2, number)) for number in range(3)] == [[0, 1], [1, 0], [0, 1]]


def test_ratios_are_of_pairs_and_not_of_medians():
    ours, rival = measured("ours", [10, 40, 90], peak=20), measured("rival", [10, 20, 30])
    ratio = speed_ratio(ours, rival)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.5, 2.5)
    assert str(ratio) == "2.00 (1.50-2.50)"
    assert memory_ratio(ours, rival) == 0.2
    assert cpu_ratio(ours, rival).median == 2.0
    assert spread([3.0]).high == 3.0


def test_a_missed_target_ends_the_program():
    require("speed", 2.0, at_least=2.0)
    require("memory", 0.2, at_most=0.2)
    with pytest.raises(SystemExit, match=r"speed: 1\.90, expected at least 2\.00"):
        require("speed", 1.9, at_least=2.0)
    with pytest.raises(SystemExit, match="memory: nan, expected at most"):
        require("memory", float("nan"), at_most=0.2)
