"""A small run on real parts, stopped at each of its file operations, starved, signalled and damaged: nothing is lost.

Everything that a run leaves must be the bytes of the uninterrupted run. The full table: `python -m benchmarks.kill_points`.
"""

import errno
import os
import shutil
import signal
import time

import pytest

from spice_enterprise.seeding import stream

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def trials():
    from benchmarks.kill_points import Rig, Trials, scratch

    folder = scratch()
    found = Trials(Rig(folder), folder)
    found.record()
    yield found
    shutil.rmtree(folder)


def test_a_kill_before_or_within_any_file_operation_changes_nothing(trials):
    results = trials.resume_images(("kill", "torn"))
    print(f"K = {trials.operations}: {dict(results)}")
    writes = trials.names.count("write")
    assert trials.operations > 200
    assert results == {("kill", "equal"): trials.operations, ("torn", "equal"): writes}


def test_losing_what_was_not_fsynced_changes_nothing(trials):
    results = trials.resume_images(("lost",), every=4)
    assert {said for _, said in results} == {"equal"}
    assert sum(results.values()) > 30


@pytest.mark.parametrize(("code", "is_lasting"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_or_broken_disk_stops_the_run_and_it_goes_on_later(trials, code, is_lasting):
    points = range(3, trials.operations, trials.operations // 6)
    assert {trials.fail_at(number, code, is_lasting=is_lasting) for number in points} == {"equal"}


def test_kills_at_random_instants_change_nothing(trials):
    random = stream(1, "instants")
    assert [trials.killed_at_random(random, 0.4) for _ in range(5)] == ["equal"] * 5


def test_damage_to_any_file_is_refused_or_made_good(trials):
    from benchmarks.kill_points import damage_trials, image_before, sizes_of_damage

    random = stream(2, "places")
    image = image_before(trials, trials.operations - 12)
    jobs = sizes_of_damage(trials, image, 30, random)
    results = damage_trials(trials, image, jobs[:30] + jobs[30::4], random)
    assert set(results) <= {"refused", "equal"}, results
    assert results["refused"] > 3
    assert results["equal"] > 3


def damaged_newest(trials, image):
    """What becomes of a run whose newest run state, learner state or adapter is damaged, each file of them in turn."""
    from benchmarks.kill_points import damage_trials, delete, files_of, flip, newest_of

    newest = [image / path for path in newest_of(image)]
    chosen = [i for i, file in enumerate(files_of(image)) if any(file.is_relative_to(path) for path in newest)]
    jobs = [(flip, index) for index in chosen] + [(delete, index) for index in chosen]
    assert len(jobs) > 12
    return damage_trials(trials, image, jobs, stream(3, "places"))


def test_of_a_finished_run_what_is_newest_is_made_again(trials):
    results = damaged_newest(trials, trials.folder / "reference")
    assert set(results) == {"equal"}, results


def test_with_a_play_ahead_and_a_proven_sampler_nothing_is_lost_either():
    from benchmarks.kill_points import Rig, Trials, scratch

    folder = scratch()
    ahead = Trials(Rig(folder, is_overlapped=True), folder)
    ahead.record()
    events = [event[0] for event in ahead.reference["audit"]]
    stopped = ahead.resume_images(("kill", "torn"), every=16)
    damaged = damaged_newest(ahead, folder / "reference")
    shutil.rmtree(folder)
    assert events.count("adapter.delivered") == events.count("checkpoint.saved") == 3
    assert {said for _, said in stopped} == {"equal"}, stopped
    assert set(damaged) == {"equal"}, damaged


@pytest.mark.parametrize("kind", ["run_states", "states"])
def test_where_nothing_verifies_nothing_starts_afresh(trials, kind):
    from benchmarks.kill_points import image_before

    root = trials.folder / "trial"
    shutil.copytree(image_before(trials, trials.operations - 1), root)
    shutil.rmtree(root / "run" / kind)
    said = trials.resumed(root)
    shutil.rmtree(root)
    assert said.startswith("refused E_STATE_CORRUPT 5 none of the 0")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_leaves_a_run_that_continues(trials, stop):
    import typer

    from spice_enterprise.cli_frame import verb

    for delay_s in (0.05, 0.2):
        root = trials.folder / "trial"
        root.mkdir()
        (root / "sampled").touch()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 0
            try:
                with verb("run", is_json=True, is_debug=False):
                    os.write(writer, b"x")
                    trials.rig.run(root)
            except typer.Exit as left:
                code = left.exit_code
            os._exit(code)
        os.read(reader, 1)
        time.sleep(delay_s)
        begun = time.monotonic()
        os.kill(child, stop)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert time.monotonic() - begun < 30
        assert code in (0, 75), "0: the run was over first"
        assert trials.resumed(root) == "equal"
        shutil.rmtree(root)
