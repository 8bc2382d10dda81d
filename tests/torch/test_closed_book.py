"""Facts that no weight holds: closed-book answers about them are guesses, and what pays by chance earns nothing."""

import json
import shutil
from statistics import mean

import pytest

from spice_enterprise.config import SelfplayConfig, WarmupConfig
from spice_enterprise.records import Chunk, ScrubbedText
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.selfplay.examples import played_of, written
from spice_enterprise.selfplay.prompts import Decoding, reasoner_prompt
from spice_enterprise.selfplay.rewards import challenger_reward
from spice_enterprise.testing import DirectGrader, StreamingScriptedSampler

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SITES = 64
CONFIG = SelfplayConfig(
    contract="short", regimes=("closed_book",), challenger="frozen", challenger_group=2, reasoner_group=8, max_rounds=1,
    refill_rounds=0, max_tasks=1, formats="choice", chunk_sampler="uniform", replay_share=0.0, challenger_tokens=16,
    reasoner_tokens=3, temperature=1.0, open_book_samples=0, open_book_agree=0, duplicate_penalty=0.0,
)  # fmt: skip


def chunk(i):
    days = stream(5, "days", i).randrange(20, 90)
    return Chunk(
        document_id=f"doc_{i}", index=0, text=ScrubbedText(f"The notice period of site {i}x is {days} days."), redactions=(),
        split="train", pii_policy_digest="sha256:0", token_count=8,
    )  # fmt: skip


@pytest.fixture
def reasoner(tiny_path, tmp_path, config, tools):
    """A tiny model that has learned to say a letter, and knows nothing."""
    from spice_enterprise.training.base_model import resolve_base_model
    from spice_enterprise.training.chat import ChatTokenizer
    from spice_enterprise.training.hf_sampler import HfSampler
    from spice_enterprise.training.qlora import LearnerModel
    from spice_enterprise.training.trainer import QloraTrainer, Sampling

    path = shutil.copytree(tiny_path, tmp_path / "roomy")
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 4096}))
    base = resolve_base_model(str(path), cache_dir=tmp_path, is_offline=True)
    learner, tokenizer = LearnerModel.load(base, config, seed=11), ChatTokenizer(base.path)
    trainer = QloraTrainer(
        learner, run_dir=tmp_path / "run", config=config, lineage=tools.lineage_of(base),
        sampling=Sampling(l_max={"challenger": 20, "reasoner": 10}), warmup=WarmupConfig(learning_rate=2e-2),
    )  # fmt: skip
    version = trainer.start()
    decoding = Decoding(max_new_tokens=3, temperature=1.0)
    for number in range(1, 25):
        examples = [
            written(
                tokenizer.encode_example,
                reasoner_prompt(f"How many days, {number} {i}?", decoding, options=("2 days", "3 days", "4 days", "5 days")),
                f"{'ABCD'[i % 4]}\n", role="reasoner", parent_id="c", source="cloze",
            )
            for i in range(8)
        ]  # fmt: skip
        version = trainer.save(trainer.update(played_of(examples, step=number).groups, number=number))
    sampler = HfSampler(learner, tokenizer, run_dir=tmp_path / "run")
    sampler.publish(version)
    return sampler, version


def test_unknown_facts_are_guessed_and_guessing_earns_next_to_nothing(reasoner):
    sampler, version = reasoner
    chunks = [chunk(i) for i in range(SITES)]

    def ask(prompt, random):
        return f" is the notice period of site {prompt.messages[-1].content.rpartition('site ')[2].split()[0]}?"

    speakers = Speakers(player=sampler, challenger=StreamingScriptedSampler(ask))
    stage = SelfplayStage(speakers, grader=DirectGrader(KindVerifier()), config=CONFIG, seed=3, library=chunks)
    played = stage.play(chunks, version, step=1)
    answers = [item.group.rollouts for item in played.rollouts if item.group.role == "reasoner"]
    letters = [r for rollouts in answers for r in rollouts if r.text in tuple("ABCD")]
    assert len(letters) > 0.2 * 8 * SITES, "the model says letters, so there is something to guess with"
    assert mean(r.outcome == "correct" for r in letters) == pytest.approx(0.25, abs=0.1), "as often right as chance has it"
    paid = mean(r.reward for item in played.rollouts if item.group.role == "challenger" for r in item.group.rollouts)
    assert 0.04 < paid < 0.25
    uncorrected = mean(challenger_reward([r.outcome == "correct" for r in rollouts]) for rollouts in answers)
    assert uncorrected > 2.0 * paid, "the paper's reward pays for guesses"
