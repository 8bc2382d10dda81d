"""What the standing version can do, measured from time to time while it learns.

In: the corpus and the frozen exam, what a step played, samplers of the standing version and of the frozen base.
Out: `StandingProbe`: finite numbers under `probe/...`, and `heldout`, which becomes the step's own.
Refuses: a file of general-ability items with problems (all of them at once); answers of another version (`DeliveryError`).
Not here: what follows from a number (`guardrails/play_rules.py`), the verdict on an adapter (`release/`).

A measurement is a function of the version, the step's play and the run's seed. It draws at most, with the short contract,
`DEV_QUESTIONS` x 2 x 16 + `PASS_QUESTIONS` x `PASS_DRAWS` x 16 tokens by the version, `AUDITED` x 32 by the base, and 5 % of
the step's answers once more; general-ability items are only scored. The development questions are on documents that training
never reads, and are not the exam's: they may decide when to stop, and the exam may not.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from spice_enterprise.config import ExamConfig, SelfplayConfig
from spice_enterprise.errors import ConfigError, DeliveryError, ReleaseError
from spice_enterprise.protocols import Corpus, Played, Sampler, Verifier
from spice_enterprise.records import AdapterVersion, Chunk, Exam, ExamItem, Message, Prompt, RolloutGroup, Task
from spice_enterprise.release.evaluation import Grading, as_task, likeliest, score_exam
from spice_enterprise.release.exam import FactExaminer, exam_prompt, missing_words
from spice_enterprise.seeding import derive, stream
from spice_enterprise.selfplay.answers import extract_answer
from spice_enterprise.selfplay.prompts import Decoding, reasoner_prompt
from spice_enterprise.selfplay.reasoner import ask

DEV_QUESTIONS: Final = 48
PASS_QUESTIONS: Final = 16
PASS_DRAWS: Final = 32
PASS_AT: Final = (1, 8, 32)
AUDITED: Final = 50
REGRADED_SHARE: Final = 0.05
GENERAL_ITEMS: Final = 200
ANSWER_TOKENS: Final = 16
Numbers = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralItem:
    """One multiple-choice question of general ability; `answer` is one of `choices`."""

    question: str = field(repr=False)
    choices: tuple[str, ...] = field(repr=False)
    answer: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingProbe:
    """Measures the version that stands before every `play.measure_every`-th step, the first included.

    A run that is shorter than that is not measured: there would be nothing to compare with.
    """

    sampler: Sampler
    base_sampler: Sampler
    verifier: Verifier
    play: SelfplayConfig
    """Sized."""
    last_step: int
    seed: int
    dev: Exam | None
    """None: the unseen documents hold no question beside the exam's."""
    chunks: Mapping[str, Chunk] = field(repr=False)
    """Train chunks by id."""
    general: Sequence[GeneralItem] = field(default=(), repr=False)

    def is_due(self, step: int) -> bool:
        """True when the version that stands before `step` is to be measured."""
        every = self.play.measure_every
        return 0 < every <= self.last_step and (step - 1) % every == 0

    def measure(self, version: AdapterVersion, played: Played, *, step: int) -> Numbers:
        """Return what was measured. Raises `DeliveryError` when another version is being served."""
        if self.sampler.adapter_digest != version.digest:
            raise DeliveryError("another adapter was about to be measured", record_id=version.adapter_id)
        reasoner = {item.group.parent_id: item.group for item in played.rollouts if item.group.role == "reasoner"}
        found = self._dev() | self._general()
        found |= self._regraded(played.tasks, reasoner, version, step) | self._audited(played.tasks, step)
        rates = [_pass_rate(reasoner[task.task_id]) for task in played.tasks if task.task_id in reasoner]
        if rates and "heldout" in found:
            found["probe/reward_minus_dev"] = fmean(rates) - found["heldout"]
        return found

    def _dev(self) -> Numbers:
        """Accuracy with and without the passage as the exam takes it, and pass@k of drawn answers with it."""
        if self.dev is None:
            return {}
        grading = Grading(verifier=self.verifier, answer_tokens=ANSWER_TOKENS, seed=self.seed)
        opened, closed = (score_exam(self.sampler, self.dev, grading, with_passage=shown).accuracy for shown in (True, False))
        return self._pass_at_k() | {
            "heldout": opened,
            "heldout_se": math.sqrt(opened * (1.0 - opened) / len(self.dev.items)),
            "probe/dev_open_book": opened,
            "probe/dev_closed_book": closed,
        }

    def _pass_at_k(self) -> Numbers:
        """Estimate how likely a right answer is among k drawn ones, for a few written questions.

        Without bias from `PASS_DRAWS` draws of which c are right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374).
        """
        items = [item for item in self.dev.items if item.item_format == "cloze"][:PASS_QUESTIONS] if self.dev else []
        if not items:
            return {}
        greedy = [exam_prompt(item, with_passage=True, answer_tokens=ANSWER_TOKENS) for item in items]
        prompts = [replace(prompt, temperature=1.0) for prompt in greedy]
        rows = self.sampler.sample(prompts, n=PASS_DRAWS, seed=derive(self.seed, "probe", "pass"))
        wrong = [
            sum(not self.verifier.grade(as_task(item, with_passage=True), missing_words(item.question, c.text)) for c in row)
            for item, row in zip(items, rows, strict=True)
        ]
        return {f"probe/pass_at_{k}": fmean(1.0 - math.comb(n, k) / math.comb(PASS_DRAWS, k) for n in wrong) for k in PASS_AT}

    def _general(self) -> Numbers:
        """Share of general-ability items whose right choice is the likeliest per token."""
        if not self.general:
            return {}
        hits = right_choices(self.sampler, self.general)
        return {"probe/general": sum(hits) / len(hits)}

    def _regraded(
        self, tasks: Sequence[Task], answers: Mapping[str, RolloutGroup], version: AdapterVersion, step: int
    ) -> Numbers:
        """Mean of (new pass rate - recorded one): the recorded one also chose what to train on, so it may flatter.

        Only of tasks answered without passages by this very version.
        """
        fit = [
            task
            for task in tasks
            if task.regime != "open_book"
            and (group := answers.get(task.task_id))
            and {r.adapter_digest for r in group.rollouts} == {version.digest}
        ]
        chosen = stream(self.seed, "regrade", step).sample(fit, math.ceil(REGRADED_SHARE * len(fit)))
        if not chosen:
            return {}
        prompts, seed = [ask(task, self.play) for task in chosen], derive(self.seed, "regrade", "draws", step)
        rows = self.sampler.sample(prompts, n=self.play.reasoner_group, seed=seed)
        fresh = [fmean(float(self._is_right(task, c.text)) for c in row) for task, row in zip(chosen, rows, strict=True)]
        shifts = [p - _pass_rate(answers[task.task_id]) for p, task in zip(fresh, chosen, strict=True)]
        return {"probe/regrade_shift": fmean(shifts)}

    def _audited(self, tasks: Sequence[Task], step: int) -> Numbers:
        """Share of admitted tasks whose reference answer the frozen base gives, greedily and with the passage."""
        known = [task for task in tasks if task.chunk_id in self.chunks]
        chosen = stream(self.seed, "audit", step).sample(known, min(AUDITED, len(known)))
        if not chosen:
            return {}
        decoding = Decoding(max_new_tokens=self.play.reasoner_tokens, temperature=0.0)
        prompts = [
            reasoner_prompt(t.question, decoding, options=t.options, passages=(self.chunks[t.chunk_id].text,)) for t in chosen
        ]
        self.base_sampler.publish(None)
        rows = self.base_sampler.sample(prompts, n=1, seed=self.seed)
        return {"probe/gold_audit": fmean(float(self._is_right(t, row[0].text)) for t, row in zip(chosen, rows, strict=True))}

    def _is_right(self, task: Task, text: str) -> bool:
        return self.verifier.grade(task, extract_answer(text, task.answer_kind))


def _pass_rate(group: RolloutGroup) -> float:
    return fmean(float(rollout.outcome == "correct") for rollout in group.rollouts)


def _general_prompt(item: GeneralItem) -> Prompt:
    return Prompt(
        messages=(Message(speaker="user", content=item.question),),
        template_id="probe.general.v1",
        max_new_tokens=1,
        temperature=0.0,
        prefill="Answer:",
    )


# --- the questions ----------------------------------------------------------------------------------------------------


def development_exam(corpus: Corpus, exam: Exam, *, seed: int) -> Exam | None:
    """Return at most `DEV_QUESTIONS` about unseen documents that the exam does not ask; None when there are none.

    Chunks that the exam leaves alone come first, and values before names; documents take turns.
    """
    settings = ExamConfig(questions_per_document=100, max_questions=100_000, answer_tokens=ANSWER_TOKENS)
    examiner = FactExaminer(settings, seed)
    try:
        made = examiner.set_exam(replace(corpus, chunks=corpus.unseen))
    except ReleaseError:
        return None
    asked = {(item.chunk_id, item.answer) for item in exam.items} | {("", item.question) for item in exam.items}
    free = [item for item in made.items if not asked & {(item.chunk_id, item.answer), ("", item.question)}]
    stream(seed, "development", "order").shuffle(free)
    used = {item.chunk_id for item in exam.items}
    free.sort(key=lambda item: (item.chunk_id in used, item.answer_kind == "text"))
    items = tuple(_in_turns(free)[:DEV_QUESTIONS])
    return replace(made, items=items) if items else None


def _in_turns(items: Sequence[ExamItem]) -> list[ExamItem]:
    """Return the items so that every document has its first before any has its second."""
    turns: Counter[str] = Counter()
    ranked = []
    for item in items:
        ranked.append((turns[item.document_id], item))
        turns[item.document_id] += 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]


def right_choices(sampler: Sampler, items: Sequence[GeneralItem]) -> list[bool]:
    """Return for each item whether its right choice is the likeliest per token, by what `sampler` serves."""
    rows = sampler.score([_general_prompt(item) for item in items], [[f" {choice}" for choice in item.choices] for item in items])
    return [likeliest(item.choices, row) == item.answer for item, row in zip(items, rows, strict=True)]


def read_general_items(path: Path) -> tuple[GeneralItem, ...]:
    """Read JSONL of `question`, `choices`, `answer_index`; the first `GENERAL_ITEMS` are used.

    Raises `ConfigError` with every problem by line, and without content.
    """
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"selfplay.general_items: cannot be read ({type(error).__name__})", hint="a UTF-8 file of JSON lines"
        ) from None
    read = [_general_item(line) for line in lines]
    problems = tuple(f"line {i}: {found}" for i, found in enumerate(read, start=1) if isinstance(found, str))
    if problems:
        head = "; ".join(problems[:5])
        raise ConfigError(f"selfplay.general_items: {head}", hint="each line: question, choices, answer_index", problems=problems)
    return tuple(found for found in read if isinstance(found, GeneralItem))[:GENERAL_ITEMS]


def _general_item(line: str) -> GeneralItem | str:
    """Return the item, or what is wrong with it."""
    try:
        data: Any = json.loads(line)
    except ValueError:
        return "not JSON"
    question, choices, index = (
        (data.get(k) for k in ("question", "choices", "answer_index")) if isinstance(data, dict) else [None] * 3
    )
    if not (isinstance(question, str) and question.strip()):
        return "no question"
    if not (isinstance(choices, list) and len(choices) > 1 and all(isinstance(c, str) and c.strip() for c in choices)):
        return "choices: at least two texts are needed"
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(choices):
        return "answer_index: not the place of a choice"
    return GeneralItem(question=question, choices=tuple(choices), answer=choices[index])
