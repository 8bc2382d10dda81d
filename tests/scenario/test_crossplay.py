"""Cross-play of scripted versions: harder questions, better answers, unsound answers, and a call that is interrupted."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from spice_enterprise import Parts, SpiceAdapterJob, crossplay_page
from spice_enterprise.assembly import Assembly
from spice_enterprise.config import JobConfig, SelfplayConfig, build_config
from spice_enterprise.crossplay import CrossPlay, CrossPlayRun, Sizes, choose_checkpoints, choose_chunks
from spice_enterprise.errors import ConfigError, CorpusError, StoreError
from spice_enterprise.protocols import Corpus
from spice_enterprise.records import AdapterVersion, Chunk, Completion, Prompt, canonical_json, decode
from spice_enterprise.store import RunStore
from spice_enterprise.testing import (
    ExactVerifier,
    FakePlayer,
    FakeTrainer,
    FixedExaminer,
    FixedJudge,
    LineIngestor,
    MemoryAudit,
    MemoryRegistry,
    MemorySource,
    MemoryWindow,
    ScriptedSampler,
)

STEPS, EVERY, CHUNKS = 10, 1, 24
PLAY = {"steps": STEPS, "chunks_per_step": 2, "formats": "free_form", "regimes": ["closed_book"]}
HARD = ("surely", "duly", "fully", "truly", "rightly", "wholly", "plainly")
DAYS = {"".join("bcdfghjklm"[int(digit)] + "a" for digit in f"{number:03d}"): 30 + number for number in range(150)}
"""Days by the name of a lease, such as `bacada`."""
FILES = {
    f"{name}.txt": f"The notice period of lease {name} is, {', '.join(HARD)}, {days} days in all.\n".encode()
    for name, days in DAYS.items()
}


class Player(ScriptedSampler):
    """A version of step s writes questions of difficulty `harder * s` and answers with skill `better * s`.

    The chance of a right answer is 0.6 + skill - difficulty. The difficulty is how many of the hard words a question has.
    """

    def __init__(self, steps: dict[str, int], *, harder: float = 0.0, better: float = 0.0) -> None:
        super().__init__(self._write)
        self._steps, self._harder, self._better = steps, harder, better
        self.asked: Counter[str] = Counter()
        self.interrupt_at: int | None = None

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        role = prompts[0].template_id.partition(".")[0]
        self.asked[role] += len(prompts)
        if self.interrupt_at is not None and self._step >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        return super().sample(prompts, n=n, seed=seed)

    @property
    def _step(self) -> int:
        return self._steps.get(self.adapter_digest, 0)

    def _write(self, prompt: Prompt, random: Random) -> str:
        text = prompt.messages[-1].content
        name = re.findall(r"lease (\w+)", text)[-1]
        if prompt.template_id.startswith("challenger"):
            return f" does the notice period of lease {name} {' '.join(HARD[: round(10 * self._harder * self._step)])} take?"
        chance = 0.6 + self._better * self._step - 0.1 * sum(word in text for word in HARD)
        return f"{DAYS[name]} days" if random.random() < chance else "I cannot say"


def base_reads(prompt: Prompt, random: Random) -> str:
    """The frozen base finds the answer in the passage, and without one it cannot."""
    found = re.search(r"(\d+ days) in all", prompt.messages[-1].content)
    return found.group(1) if found and random.random() < 0.98 else "no idea"


class World:
    def __init__(self, workspace: Path, **script: float) -> None:
        self.workspace = workspace
        self.audit = MemoryAudit()
        self.steps: dict[str, int] = {}
        self.player = Player(self.steps, **script)
        self.base = ScriptedSampler(base_reads, is_base=True)

    def config(self, **settings: Any) -> JobConfig:
        given = {"selfplay": PLAY, "training": {"keep_adapters_every": EVERY}, "tracking": {"is_enabled": False}}
        return build_config({"corpus": "memory", "workspace": str(self.workspace), **given, **settings})

    def parts(self, **changed: Any) -> Parts:
        parts = Parts(
            source=MemorySource(FILES),
            ingestor=LineIngestor(),
            sampler=self.player,
            base_sampler=self.base,
            trainer=FakeTrainer(),
            monitors=(),
            verifier=ExactVerifier(),
            examiner=FixedExaminer(),
            judge=FixedJudge("PASS"),
            audit=self.audit,
            window=MemoryWindow(),
            registry=MemoryRegistry(),
        )
        return replace(parts, **changed)

    def train(self, **settings: Any) -> None:
        """Make the run, and leave its adapters on disk as a real trainer would."""
        config = self.config(**settings)
        SpiceAdapterJob(config=config, parts=self.parts(player=FakePlayer())).train()
        for version in RunStore(config.run_dir).all(AdapterVersion):
            self.steps[version.digest] = version.step
            (config.run_dir / "adapters" / version.adapter_id).mkdir(parents=True)

    def run(self, sizes: Sizes | None = None, **settings: Any) -> CrossPlay:
        chosen = sizes or Sizes(checkpoints=3, chunks=CHUNKS, attempts=3, answers=12)
        run = CrossPlayRun(self.config(**settings), sizes=chosen, parts=self.parts(), on_progress=lambda _: None)
        return run.run()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("trained"))
    world.train()
    return world


def copy_of(trained: World, workspace: Path, **script: float) -> World:
    """Return the same run in a workspace of its own: a run directory names no place."""
    world = World(workspace, **script)
    shutil.copytree(trained.config().run_dir, world.config().run_dir)
    world.steps.update(trained.steps)
    return world


@pytest.fixture
def world(trained: World, tmp_path: Path) -> World:
    return copy_of(trained, tmp_path, harder=0.06, better=0.04)


def test_harder_questions_lower_a_and_better_answers_raise_b(world: World) -> None:
    found = world.run()
    assert [c.step for c in found.checkpoints] == [3, 7, 10], "the anchor at 30 % of self-play, then evenly to the end"
    first, last = found.checkpoints[0], found.checkpoints[-1]
    assert first.asked is not None
    assert last.asked_change is not None
    assert last.answered_change is not None
    assert first.asked == first.answered, "the anchor on its own questions"
    # at step 3: 0.6 + 0.12 - 0.2; at step 10 questions have 4 hard words more, and answers are 0.28 better
    assert first.asked.low is not None
    assert first.asked.high is not None
    assert first.asked.low < 0.52 < first.asked.high
    assert last.asked_change.mean == pytest.approx(-0.4, abs=0.06)
    assert last.asked_change.high is not None
    assert last.asked_change.high < -0.1
    assert last.answered_change.mean == pytest.approx(0.28, abs=0.06)
    assert last.answered_change.low is not None
    assert last.answered_change.low > 0.1
    assert last.open_book is not None
    assert last.open_book.mean == pytest.approx(0.98, abs=0.03)
    assert last.open_book_change is not None
    assert abs(last.open_book_change.mean) < 0.05
    assert (last.admitted.mean, last.readable.mean, found.documents) == (1.0, 1.0, CHUNKS)


def test_versions_that_do_not_differ_do_not_seem_to(trained: World, tmp_path: Path) -> None:
    world = copy_of(trained, tmp_path)
    last = world.run().checkpoints[-1]
    for change in (last.asked_change, last.answered_change, last.admitted_change):
        assert change is not None
        assert change.low is not None
        assert change.high is not None
        assert change.low <= 0.0 <= change.high


def test_it_is_the_same_whenever_it_is_played(world: World, trained: World, tmp_path: Path) -> None:
    assert copy_of(trained, tmp_path / "other", harder=0.06, better=0.04).run() == world.run()


def test_nothing_is_asked_twice(world: World) -> None:
    first = world.run()
    asked = Counter(world.player.asked)
    assert world.run() == first
    assert world.player.asked == asked
    more = world.run(Sizes(checkpoints=5, chunks=CHUNKS, attempts=3, answers=12))
    assert [c.step for c in more.checkpoints] == [3, 5, 7, 8, 10]
    assert world.player.asked["challenger"] == asked["challenger"] + 2 * CHUNKS, "only the two new versions propose"


def test_an_interrupted_call_goes_on_where_it_stopped(world: World, trained: World, tmp_path: Path) -> None:
    world.player.interrupt_at = 10
    with pytest.raises(StoreError) as caught:
        world.run()
    assert caught.value.code == "E_STOPPED"
    asked = world.player.asked["challenger"]
    found = world.run()
    assert world.player.asked["challenger"] == asked + CHUNKS, "the last version alone proposes again"
    assert copy_of(trained, tmp_path / "whole", harder=0.06, better=0.04).run() == found


def test_damaged_leftovers_are_made_again(world: World) -> None:
    first = world.run()
    for path in (world.config().run_dir / "crossplay").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert world.run() == first


def test_a_gold_that_is_wrong_shows_in_the_open_book_rate(tmp_path: Path) -> None:
    """What lowers (a) without lowering the rate of the base is difficulty; a base that cannot agree tells the other case."""
    world = World(tmp_path, harder=0.06)
    world.base = ScriptedSampler(lambda prompt, random: "no idea" if "surely" in _asked(prompt) else base_reads(prompt, random))
    world.train(selfplay={**PLAY, "admission": "parsable"})
    found = world.run(selfplay={**PLAY, "admission": "parsable"})
    first, last = found.checkpoints[0], found.checkpoints[-1]
    assert first.open_book is not None
    assert last.open_book is not None
    assert last.open_book.mean == 0.0


def _asked(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def test_the_audit_log_and_the_files_hold_no_text(world: World) -> None:
    found = world.run()
    event = world.audit.events[-1]
    assert event.event == "eval.completed"
    assert [thing.name for thing in event.subject] == [c.adapter_id for c in found.checkpoints]
    assert dict(event.data)["documents"] == CHUNKS
    written = (world.config().run_dir / "crossplay.json").read_text(encoding="utf-8")
    shown = written + str(event) + crossplay_page.render_text(found) + crossplay_page.render_html(found)
    assert "notice" not in shown
    assert "surely" not in shown


def test_the_page_has_both_plots_and_the_table(world: World) -> None:
    found = world.run()
    html, text = crossplay_page.render_html(found), crossplay_page.render_text(found)
    assert html.count("<svg") == 2
    assert "<script" not in html
    for checkpoint in found.checkpoints:
        assert f"\n  {checkpoint.step} " in text
    assert decode(CrossPlay, json.loads(canonical_json(found))) == found


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_run_that_kept_no_adapters_is_told_which_setting(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.train(training={"keep_adapters_every": 0})
    with pytest.raises(ConfigError) as caught:
        world.run(training={"keep_adapters_every": 0})
    assert caught.value.code == "E_NO_CHECKPOINTS"
    assert "training.keep_adapters_every" in caught.value.hint


def test_a_run_that_was_never_begun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        World(tmp_path).run()
    assert (caught.value.code, caught.value.exit_status()) == ("E_NO_RUN", 2)


def test_another_config_is_refused(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        world.run(seed=4)
    assert caught.value.code == "E_RUN_CONFIG"


def test_a_corpus_without_unseen_chunks_is_refused(world: World) -> None:
    store = RunStore(world.config().run_dir)
    corpus = store.load("corpus", Corpus)
    assert corpus is not None
    store.save("corpus", replace(corpus, chunks=corpus.train))
    with pytest.raises(CorpusError) as caught:
        world.run()
    assert (caught.value.code, caught.value.exit_status()) == ("E_NO_UNSEEN", 2)


def test_a_version_that_was_gone_back_from_does_not_play(world: World) -> None:
    store = RunStore(world.config().run_dir)
    versions = store.all(AdapterVersion)
    stray = replace(versions[-1], step=11, parent_adapter_id=versions[-1].adapter_id)
    store.put(stray)
    (store.run_dir / "adapters" / stray.adapter_id).mkdir()
    assert world.run().checkpoints[-1].step == 10


# --- which versions and chunks ----------------------------------------------------------------------------------------


def version_of(step: int) -> AdapterVersion:
    return AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=f"step_{step}", step=step, base_model="b", base_digest="sha256:b",
        corpus_digest="sha256:c", config_digest="sha256:k", manifest=(), digest=f"sha256:{step}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (range(0, 641, 10), 5, [190, 300, 410, 530, 640]),
        (range(0, 101, 10), 2, [30, 100]),
        ((0, 50, 100), 5, [50, 100]),
        ((0, 100), 5, [0, 100]),
        ((0, 10, 20, 30, 40), 9, [10, 20, 30, 40]),
    ],
)
def test_the_anchor_is_at_30_percent_and_the_rest_even(steps: Sequence[int], count: int, expected: list[int]) -> None:
    assert [v.step for v in choose_checkpoints([version_of(step) for step in steps], count)] == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (range(0, 101, 10), [40, 70, 100]),  # nearest to 20 + 0.3 * 80
        ([0, 10, 20, 100], [20, 100]),
        ([0, 10, 30, 100], [30, 100]),
    ],
)
def test_the_warm_up_is_no_self_play(steps: Sequence[int], expected: list[int]) -> None:
    found = choose_checkpoints([version_of(step) for step in steps], 3, warmup_steps=20)
    assert [v.step for v in found] == expected


def test_a_run_with_one_version_after_its_warm_up_has_nothing_to_compare() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_checkpoints([version_of(step) for step in (0, 10, 20)], 3, warmup_steps=20)
    assert caught.value.code == "E_NO_CHECKPOINTS"


def test_the_run_says_how_long_its_warm_up_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assembly, "warmup_steps", 4)
    found = world.run(Sizes(checkpoints=3, chunks=2, attempts=2, answers=2))
    assert [c.step for c in found.checkpoints] == [6, 8, 10], "4 and 30 % of 6"


MEASURES = SelfplayConfig(hint_values="measures")


def chunk_of(document: int, index: int, split: str, text: str = "t") -> Chunk:
    data = {
        "document_id": f"doc_{document}", "index": index, "text": f"{text} {document} {index}", "redactions": [], "split": split,
        "pii_policy_digest": "sha256:p", "token_count": 3,
    }  # fmt: skip
    return decode(Chunk, data)


def test_chunks_are_taken_document_by_document_and_never_those_of_the_exam_or_of_training() -> None:
    chunks = [chunk_of(d, i, split) for d, split in ((0, "unseen"), (1, "exam"), (2, "train"), (3, "unseen")) for i in range(4)]
    chosen = choose_chunks(chunks, 4, MEASURES, seed=0)
    assert Counter(c.document_id for c in chosen) == {"doc_0": 2, "doc_3": 2}
    assert len(set(choose_chunks(chunks, 99, MEASURES, seed=0))) == 8
    assert chosen == choose_chunks(chunks[::-1], 4, MEASURES, seed=0)[: len(chosen)] or chosen != choose_chunks(
        chunks, 4, MEASURES, seed=1
    )


def test_chunks_that_can_be_asked_about_are_taken_where_there_are_some() -> None:
    texts = ("The notice period is 45 days.", "Nothing is said of")
    chunks = [chunk_of(d, i, "unseen", texts[i]) for d in range(3) for i in range(2)]
    assert {chunk.index for chunk in choose_chunks(chunks, 9, MEASURES, seed=0)} == {0}
    assert len(choose_chunks(chunks[1::2], 9, MEASURES, seed=0)) == 3
