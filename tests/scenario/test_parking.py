"""A sampler that can gives its memory back while the learner works, and has it again before it is asked for anything."""

import pytest

from spice_enterprise.loop import LoopParts, LoopSettings, self_play
from spice_enterprise.store import RunStore
from spice_enterprise.testing import (
    FakePlayer,
    FakeTrainer,
    LineIngestor,
    MemoryAudit,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)


class Parking(ScriptedSampler):
    """Writes down what happens to it and to the learner."""

    def __init__(self):
        super().__init__(lambda prompt, random: "x")
        self.log = []

    def park(self):
        self.log.append("park")

    def unpark(self):
        self.log.append("unpark")

    def publish(self, version):
        super().publish(version)
        self.log.append("publish")


class Learner(FakeTrainer):
    """Tells the sampler's log when it works; refuses when told to."""

    def __init__(self, log, *, breaks=False, **rest):
        super().__init__(**rest)
        self._log, self._breaks = log, breaks

    def update(self, groups, *, number):
        self._log.append("update")
        if self._breaks:
            raise RuntimeError("broken")
        return super().update(groups, number=number)


def play(folder, sampler, trainer, *, max_staleness=0):
    chunks = LineIngestor().ingest(MemorySource({f"{i}.txt": b"a fact" for i in range(5)}), lambda _: None).train
    parts = LoopParts(
        player=FakePlayer(), sampler=sampler, trainer=trainer, monitors=(), audit=MemoryAudit(), window=MemoryWindow()
    )
    settings = LoopSettings(run="r", steps=2, chunks_per_step=2, seed=0, max_restores=1, max_staleness=max_staleness)
    self_play(chunks, parts, RunStore(folder), settings, lambda _: None)


def test_memory_is_given_back_for_the_update_alone(tmp_path):
    sampler = Parking()
    play(tmp_path, sampler, Learner(sampler.log))
    assert sampler.log == ["publish", *["park", "update", "unpark", "publish"] * 2]


def test_it_is_taken_again_when_the_update_fails(tmp_path):
    sampler = Parking()
    with pytest.raises(RuntimeError, match="broken"):
        play(tmp_path, sampler, Learner(sampler.log, breaks=True))
    assert sampler.log == ["publish", "park", "update", "unpark"]


def test_a_sampler_that_plays_meanwhile_keeps_it(tmp_path):
    sampler = Parking()
    play(tmp_path, sampler, Learner(sampler.log, max_staleness=1), max_staleness=1)
    assert "park" not in sampler.log
    assert sampler.log.count("update") == 2
