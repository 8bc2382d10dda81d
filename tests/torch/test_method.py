"""An experiment and a cross-play on a real learner and sampler: a tiny random model that writes nothing of sense."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import Parts, SpiceAdapterJob
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.crossplay import CrossPlay, CrossPlayRun, Sizes
from spice_enterprise.experiment import ExperimentRun
from spice_enterprise.protocols import Played, PlayedRollout, Sampler
from spice_enterprise.records import AdapterVersion, Chunk
from spice_enterprise.testing import FakePlayer, FixedExaminer, FixedJudge, LineIngestor, MemoryAudit, MemorySource, MemoryWindow

pytestmark = [pytest.mark.torch, pytest.mark.slow]

FILES = {f"{i:02d}.txt": f"The notice period of lease number {i} is {30 + i} days in all.\n".encode() for i in range(10)}
SETTINGS: dict[str, Any] = {
    "selfplay": {"steps": 4, "chunks_per_step": 1, "formats": "free_form", "admission": "parsable", "challenger_tokens": 16,
                 "reasoner_tokens": 4, "max_rounds": 1, "temperature": 1.0},
    "training": {"lora_rank": 4, "learning_rate": 0.01, "warmup_steps": 0, "mask_truncated": False, "compute_dtype": "float32",
                 "quantization": "none", "keep_adapters_every": 1},
    "exam": {"draws": 200, "answer_tokens": 4},
    "tracking": {"is_enabled": False},
}  # fmt: skip


class Restless(FakePlayer):
    """Gives groups that the sampler wrote, with rewards that always teach something."""

    def __init__(self, tools: Any) -> None:
        super().__init__()
        self.tools = tools
        self.sampler: Sampler | None = None

    def play(self, chunks: Sequence[Chunk], version: AdapterVersion, *, step: int) -> Played:
        assert self.sampler is not None
        (row,) = self.sampler.sample([self.tools.ask(f"question {step}", 4)], n=4, seed=step)
        group = self.tools.make_group(version, row, step=step, role="reasoner")
        return Played(groups=(group,), tasks=(), rollouts=(PlayedRollout(group=group, is_trained=True),))


class World:
    def __init__(self, workspace: Path, model: Path, tools: Any) -> None:
        self.workspace, self.model, self.tools = workspace, model, tools

    def config(self) -> JobConfig:
        return build_config({"corpus": "memory", "workspace": str(self.workspace), "base_model": str(self.model), **SETTINGS})

    def parts(self, **changed: Any) -> Parts:
        parts = Parts(
            source=MemorySource(FILES), ingestor=LineIngestor(), examiner=FixedExaminer(), judge=FixedJudge("PASS"),
            monitors=(), audit=MemoryAudit(), window=MemoryWindow(),
        )  # fmt: skip
        return replace(parts, **changed)

    def train(self) -> None:
        player = Restless(self.tools)
        job = SpiceAdapterJob(config=self.config(), parts=self.parts(player=player))
        player.sampler = job._parts.sampler
        job.train()

    def cross(self) -> CrossPlay:
        sizes = Sizes(checkpoints=3, chunks=2, attempts=2, answers=2)
        return CrossPlayRun(self.config(), sizes=sizes, parts=self.parts(), on_progress=lambda _: None).run()


@pytest.fixture
def world(tiny_path: Path, tmp_path: Path, tools: Any) -> World:
    model = tmp_path / "model"
    shutil.copytree(tiny_path, model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 4096}))
    return World(tmp_path / "ws", model, tools)


def test_saved_versions_are_loaded_and_play_as_they_were(world: World) -> None:
    world.train()
    found = world.cross()
    assert [c.step for c in found.checkpoints] == [1, 3, 4]
    assert len({c.adapter_digest for c in found.checkpoints}) == 3
    assert (found.chunks, found.documents) == (2, 2)
    assert all(0.0 <= c.readable.mean <= 1.0 for c in found.checkpoints)
    shutil.rmtree(world.config().run_dir / "crossplay")
    assert world.cross() == found
    world.train()  # the run stands as it stood: the same command has nothing left to do


def test_an_experiment_on_real_parts_keeps_the_marks_of_every_run(world: World) -> None:
    changes = {"selfplay.steps": 1}
    config = build_config(world.config().model_dump(mode="json"), changes)
    runs = ExperimentRun(
        config,
        settings=["spice"],
        seeds=1,
        out=world.workspace / "out",
        parts_of=lambda _: world.parts(judge=None),
        on_progress=lambda _: None,
    )
    found = runs.run()
    assert found.is_complete, [outcome.code for outcome in found.outcomes]
    assert [result.setting for result in found.comparison.results] == ["no_training", "spice"]
    assert found.comparison.sizes[0].questions == 2
    assert runs.run() == found
