"""A scripted sampler and small records; everything here is deterministic and torch-free."""

import hashlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Verifier
from spice_enterprise.records import AdapterVersion, Chunk, Completion, Prompt, Regime, ScrubbedText, Task
from spice_enterprise.selfplay.answers import KindVerifier
from spice_enterprise.selfplay.episode import SelfplayStage, Speakers
from spice_enterprise.testing import DirectGrader

DIGEST = "sha256:" + "a" * 64
PASSAGE = (
    "The notice period is 45 days. The monthly fee is 12,480 euros and is invoiced in advance.\n"
    "Pump P-204 was commissioned on 14 March 2019 by Hartmann Service. Contact: [PERSON_k3f9]."
)


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(hashlib.sha256(word.encode()).digest()[0] for word in text.split())


class ScriptedSampler:
    """Answers with `script(prompt, i, j)`; keeps every call."""

    def __init__(self, script: Callable[[Prompt, int], str], adapter_digest: str = DIGEST) -> None:
        self.script = script
        self.adapter_digest = adapter_digest
        self.calls: list[tuple[tuple[Prompt, ...], int, int]] = []

    def sample(self, prompts: Sequence[Prompt], *, n: int, seed: int) -> list[list[Completion]]:
        self.calls.append((tuple(prompts), n, seed))
        return [[self._complete(prompt, j) for j in range(n)] for prompt in prompts]

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> list[list[float]]:
        raise NotImplementedError

    def publish(self, version: AdapterVersion | None) -> None:
        raise NotImplementedError

    def _complete(self, prompt: Prompt, j: int) -> Completion:
        text = self.script(prompt, j)
        ids = tokens_of(text)
        shown = " ".join(message.content for message in prompt.messages) + " " + prompt.prefill
        return Completion(
            prompt_token_ids=tokens_of(shown),
            token_ids=ids,
            logprobs=tuple(-0.5 for _ in ids),
            text=text,
            stop_reason="stop",
            adapter_digest=self.adapter_digest,
        )


def is_challenger(prompt: Prompt) -> bool:
    return prompt.template_id.startswith("challenger.")


def make_chunk(text: str = PASSAGE, *, index: int = 0) -> Chunk:
    return Chunk(
        document_id="doc_1",
        index=index,
        text=ScrubbedText(text),
        redactions=(),
        split="train",
        pii_policy_digest="sha256:0",
        token_count=len(text.split()),
    )


def make_task(
    answer: str,
    kind: str = "text",
    *,
    options: tuple[str, ...] = (),
    question: str = "What is it then?",
    regime: Regime = "open_book",
) -> Task:
    return Task(
        chunk_id="chunk_1",
        rollout_id="roll_1",
        question=question,
        answer=answer,
        answer_kind=kind,  # type: ignore[arg-type]  # tests name kinds as plain strings
        task_format="choice" if options else "free_form",
        regime=regime,
        options=options,
    )


def make_config(**changes: object) -> SelfplayConfig:
    """A sized section without checks by a base, in open book, unless a test says otherwise."""
    settings = {
        "challenger_group": 4,
        "reasoner_group": 4,
        "formats": "free_form",
        "max_tasks": 4,
        "max_rounds": 3,
        "refill_rounds": 0,
        "chunk_sampler": "uniform",
        "regimes": ("open_book",),
        "distractor_passages": 0,
        "open_book_samples": 0,
        "replay_share": 0.0,
        "contract": "short",
        "challenger_tokens": 96,
        "reasoner_tokens": 32,
        "temperature": 1.0,
    }
    return SelfplayConfig(**{**settings, **changes})  # type: ignore[arg-type]  # validated by the model


def make_stage(sampler: Any, *, verifier: Verifier | None = None, seed: int = 1, **settings: object) -> SelfplayStage:
    """A stage on one sampler; `base` and `library` may be among the settings."""
    base, library = settings.pop("base", None), settings.pop("library", ())
    speakers = Speakers(player=sampler, base=base)  # type: ignore[arg-type]  # given by the test
    config = make_config(**settings)
    return SelfplayStage(
        speakers,
        grader=DirectGrader(verifier or KindVerifier()),
        config=config,
        seed=seed,
        library=library,  # type: ignore[arg-type]  # given by the test
    )


@pytest.fixture
def version() -> AdapterVersion:
    return AdapterVersion(
        role="shared",
        parent_adapter_id=None,
        step_id=None,
        step=0,
        base_model="tiny",
        base_digest="b" * 64,
        corpus_digest="sha256:c",
        config_digest="sha256:d",
        manifest=(),
        digest=DIGEST,
    )


@pytest.fixture
def world() -> SimpleNamespace:
    """The makers above by short names, since test modules cannot import one another."""
    return SimpleNamespace(
        sampler=ScriptedSampler,
        chunk=make_chunk,
        task=make_task,
        config=make_config,
        stage=make_stage,
        is_challenger=is_challenger,
        passage=PASSAGE,
    )
