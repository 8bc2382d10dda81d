"""Groups in flight: nobody waits for the slowest, nothing depends on who was first, a broken stream leaves no half step."""

from types import SimpleNamespace

import pytest

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.selfplay.effort import Meter
from spice_enterprise.selfplay.streaming import Ask, GroupByGroup, Line, open_stream, play_together
from spice_enterprise.testing import StreamingScriptedSampler

ONE = "The notice period is 45 days."
TWO = "The pump delivers 320 litres."


def ask(key, prompt, n=2):
    return Ask(key=key, prompt=prompt, n=n, seed=len(key), phase="challenger")


def together(plays, stream, digest):
    lines = {"player": Line(stream=stream, adapter_digest=digest)}
    return play_together(plays, lines, is_stopped=lambda: False, meter=Meter())


@pytest.fixture
def prompt(world):
    seen = []

    def script(prompt, j):
        seen.append(prompt)
        return " is it?"

    sampler = world.sampler(script)
    stage = world.stage(sampler, max_rounds=1)
    stage.play([world.chunk(ONE)], _version(sampler), step=1)
    return seen[0]


def _version(sampler):
    return SimpleNamespace(digest=sampler.adapter_digest, adapter_id="adapter_x")


def test_a_reasoner_group_starts_before_the_slowest_challenger_has_finished(world, version):
    def script(prompt, random):
        return " is the notice period?" if world.is_challenger(prompt) else " 45 days"

    def slow_last(keys):
        return [key for key in keys if key != "1/0"][:1] or keys[:1]

    sampler = StreamingScriptedSampler(script, finish=slow_last)
    sampler.publish(version)
    stage = world.stage(sampler, max_rounds=1)
    stage.play([world.chunk(ONE), world.chunk(ONE, index=1)], version, step=1)
    events = sampler.events
    assert events[:2] == [("put", "0/0"), ("put", "1/0")]
    assert events.index(("put", "0/0/0")) < events.index(("finished", "0/0/0")) < events.index(("finished", "1/0"))
    assert events[-1] == ("finished", "1/0/0")


def test_a_plain_sampler_gives_what_a_stream_gives(world, version):
    def script(prompt, random):
        if world.is_challenger(prompt):
            return random.choice([" is the notice period?", " does the notice period take?", " whales?"])
        return random.choice([" 45 days", " 30 days"])

    plays = []
    for sampler in (StreamingScriptedSampler(script), Plain(StreamingScriptedSampler(script))):
        sampler.publish(version)
        stage = world.stage(sampler, seed=3)
        plays.append(stage.play([world.chunk(ONE), world.chunk(TWO, index=1)], version, step=1))
    assert plays[0] == plays[1]
    assert plays[0].groups


class Plain:
    """Hides the stream of a sampler."""

    def __init__(self, sampler):
        self.sample, self.publish = sampler.sample, sampler.publish


def test_a_plain_sampler_is_asked_oldest_first(world, prompt):
    sampler = world.sampler(lambda prompt, j: f"{j}")
    with open_stream(sampler) as stream:
        assert isinstance(stream, GroupByGroup)
        stream.put("a", prompt, n=1, seed=5)
        stream.put("b", prompt, n=2, seed=6)
        with pytest.raises(ValueError, match="in flight"):
            stream.put("a", prompt, n=1, seed=5)
        assert [[(key, len(group)) for key, group in stream.take()] for _ in range(3)] == [[("a", 1)], [("b", 2)], []]
    assert [(len(prompts), n, seed) for prompts, n, seed in sampler.calls] == [(1, 1, 5), (1, 2, 6)]


def test_a_play_hears_its_groups_in_the_order_it_asked(world, prompt):
    sampler = StreamingScriptedSampler(lambda prompt, random: "x", finish=lambda keys: keys[::-1])

    def play():
        first, second = yield [ask("a", prompt, 1), ask("b", prompt, 3)]
        (third,) = yield [ask("c", prompt, 2)]
        return [len(first), len(second), len(third)]

    def silent():
        yield from ()
        return "nothing asked"

    with sampler.stream() as stream:
        results = together([play(), silent()], stream, sampler.adapter_digest)
    assert results == [[1, 3, 2], "nothing asked"]


class Broken(StreamingScriptedSampler):
    """Its stream fails at the n-th take."""

    def __init__(self, script, takes):
        super().__init__(script, finish=self._count)
        self.left = takes

    def _count(self, keys):
        self.left -= 1
        if self.left < 0:
            raise SamplerError("the sampler broke")
        return keys[:1]


@pytest.mark.parametrize("takes", range(4))
def test_a_broken_stream_ends_the_step_and_the_archive_stands_still(world, version, takes):
    def script(prompt, random):
        return " is the notice period?" if world.is_challenger(prompt) else " 45 days"

    sampler = Broken(script, takes)
    sampler.publish(version)
    stage = world.stage(sampler, max_rounds=1)
    with pytest.raises(SamplerError, match="broke"):
        stage.play([world.chunk(ONE), world.chunk(ONE, index=1)], version, step=1)
    assert stage.archive.state() == ()
    assert not any(key.startswith("0/1") for _, key in sampler.events)


def test_a_stream_that_ends_early_is_refused(prompt):
    sampler = StreamingScriptedSampler(lambda prompt, random: "x", finish=lambda keys: [])

    def play():
        yield [ask("a", prompt)]

    with sampler.stream() as stream, pytest.raises(SamplerError, match="lost 1 groups"):
        together([play()], stream, sampler.adapter_digest)


def test_strange_groups_are_refused(world, prompt):
    class Strange(GroupByGroup):
        returned = ("other", 2)

        def take(self):
            ((_, group),) = super().take()
            key, n = self.returned
            return [(key, group[:n])]

    def play():
        yield [ask("a", prompt)]

    sampler = world.sampler(lambda prompt, j: "x")
    for returned, message in ((("other", 2), "lost 1 groups"), (("a", 1), "1 completions came back, 2 were asked for")):
        stream = Strange(sampler)
        stream.returned = returned
        with pytest.raises(SamplerError, match=message):
            together([play()], stream, sampler.adapter_digest)


def test_another_adapter_is_refused_in_the_group_it_wrote(prompt):
    sampler = StreamingScriptedSampler(lambda prompt, random: "x")

    def play():
        yield [ask("a", prompt)]
        raise AssertionError("the play must not hear it")

    with sampler.stream() as stream, pytest.raises(DeliveryError):
        together([play()], stream, "sha256:other")


def test_a_stopped_play_ends_with_a_code_for_trying_again(world, version):
    def script(prompt, random):
        stage.stop()
        return " is the notice period?"

    sampler = StreamingScriptedSampler(script)
    sampler.publish(version)
    stage = world.stage(sampler)
    with pytest.raises(SamplerError) as caught:
        stage.play([world.chunk(ONE)], version, step=1)
    assert (caught.value.code, caught.value.exit_status()) == ("E_STOPPED", 75)
    assert [event for event, _ in sampler.events].count("finished") == 1
