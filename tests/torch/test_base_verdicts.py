"""The frozen base votes the same before and after training, on the very module whose adapter is trained."""

import json
import shutil

import pytest

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import Chunk, ScrubbedText
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.testing import DirectGrader, StreamingScriptedSampler

pytestmark = pytest.mark.torch

CHUNKS = [
    Chunk(
        document_id=f"doc_{i}", index=0, text=ScrubbedText(f"The notice period of site {i} is {45 + i} days."), redactions=(),
        split="train", pii_policy_digest="sha256:0", token_count=8,
    )
    for i in range(4)
]  # fmt: skip
CONFIG = SelfplayConfig(
    contract="short", regimes=("closed_book",), challenger_group=2, reasoner_group=2, max_rounds=1, refill_rounds=0, max_tasks=1,
    formats="free_form", chunk_sampler="uniform", replay_share=0.0, challenger_tokens=16, reasoner_tokens=12, temperature=1.0,
    open_book_samples=4, open_book_agree=2, closed_book_samples=4,
)  # fmt: skip
SCRIPTED = "9 days"


class Odd:
    """Takes an answer whose bytes add up to an odd number, whatever it says; notes what the model wrote."""

    def __init__(self):
        self.heard = []

    def grade(self, task, answer):
        if answer != SCRIPTED:
            self.heard.append(answer)
        return sum(answer.encode()) % 2 == 1


@pytest.fixture
def roomy(tiny_path, tmp_path):
    """The tiny model with a longer context: its tokens are bytes."""
    from spice_enterprise.training.base_model import resolve_base_model

    path = shutil.copytree(tiny_path, tmp_path / "roomy")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return resolve_base_model(str(path), cache_dir=tmp_path, is_offline=True)


@pytest.fixture
def world(roomy, tmp_path, config, tools):
    """A learner with its trainer, the sampler of its adapter, and one of its bare base."""
    from spice_enterprise.training.chat import ChatTokenizer
    from spice_enterprise.training.hf_sampler import HfSampler
    from spice_enterprise.training.qlora import LearnerModel
    from spice_enterprise.training.trainer import QloraTrainer, Sampling

    learner, run_dir = LearnerModel.load(roomy, config, seed=11), tmp_path / "run"
    sizes = Sampling(l_max={"challenger": 20, "reasoner": 10})
    trainer = QloraTrainer(learner, run_dir=run_dir, config=config, lineage=tools.lineage_of(roomy), sampling=sizes)
    adapter, base = (HfSampler(learner, ChatTokenizer(roomy.path), run_dir=run_dir) for _ in range(2))
    return trainer, adapter, base


def trained(trainer, adapter, version, tools, *, steps):
    for number in range(1, steps + 1):
        adapter.publish(version)
        drawn = adapter.sample([tools.ask(f"question {number} {i}", 8) for i in range(2)], n=4, seed=number)
        groups = [tools.make_group(version, group, step=number) for group in drawn]
        version = trainer.save(trainer.update(groups, number=number))
    adapter.publish(version)
    return version


def verdicts(speaker, version, *, step):
    """Let a script propose, and `speaker` vote as the frozen base; return the verdicts and what was written."""
    player = StreamingScriptedSampler(
        lambda prompt, random: " is the notice period of the site?" if prompt.template_id.startswith("challenger") else SCRIPTED
    )
    player.publish(version)
    verifier = Odd()
    speakers = Speakers(player=player, base=speaker)
    stage = SelfplayStage(speakers, grader=DirectGrader(verifier), config=CONFIG, seed=3, library=CHUNKS)
    played = stage.play(CHUNKS, version, step=step)
    found = sorted((a.chunk_id, a.open_book, a.closed_book, a.code) for a in played.admissions)
    return found, sorted(verifier.heard)


def test_votes_of_the_frozen_base_are_the_same_before_and_after_training(world, tools):
    trainer, adapter, base = world
    start = trainer.start()
    before = verdicts(base, start, step=1)
    version = trained(trainer, adapter, start, tools, steps=3)
    assert version.digest != start.digest
    assert verdicts(base, version, step=9) == before, "another step, another adapter on the same module"
    assert len({found[1:3] for found in before[0]}) > 1, "the votes are split, so a change would show"
    prompts = [tools.ask("question", 8)]
    moved, bare = (speaker.sample(prompts, n=4, seed=5)[0] for speaker in (adapter, base))
    assert [c.text for c in moved] != [c.text for c in bare], "the adapter did move"
