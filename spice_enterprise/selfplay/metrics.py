"""What a step of self-play measured, in numbers under closed names; `docs/reference/metrics.md` explains each.

In: what was played, the settings, and the effort of it where the player knows.
Out: `step_metrics`: finite numbers by name. A name that says nothing in a step (a mean of nothing) is left out of it.
Refuses: nothing; text goes in, never out. A code that is not one of a few plain letters is counted as `other`.
Not here: what the learner measured (`records.Step`), when a number is bad (`guardrails/play_rules.py`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean
from types import MappingProxyType
from typing import Final

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import VERIFIER_FAILURES, Effort, Played
from spice_enterprise.records import Admission, Role, Rollout, RolloutGroup, Task
from spice_enterprise.selfplay.answers import normalise
from spice_enterprise.selfplay.diversity import cluster_entropy, letter_shares, self_bleu, top_share, word_entropy, zlib_ratio

FORMAT_CHOICE: Final = "format_choice"
"""Reason of a call in which the model chose a format: it is no proposal."""
NO_ANSWER: Final = "no_answer"
ROLES: Final[tuple[Role, ...]] = ("challenger", "reasoner")
OPTIONS: Final = 4

Numbers = Mapping[str, float | None]
_NO_DOCUMENTS: Final[Mapping[str, str]] = MappingProxyType({})
_CODE: Final = re.compile(r"[a-z][a-z_]{0,39}")


def step_metrics(
    played: Played,
    *,
    config: SelfplayConfig,
    effort: Effort | None = None,
    documents: Mapping[str, str] = _NO_DOCUMENTS,
) -> dict[str, float]:
    """Return the numbers of a step, over everything that was played in it, trained on or not.

    Args:
        played: the step's play; supervised groups of a warm-up are only counted.
        config: the settings it was played with.
        effort: what it cost, where the player knows.
        documents: chunk id to document id, as far as known.
    """
    seen = Seen(played)
    parts = (
        _admission(seen),
        _difficulty(seen, config),
        _signal(seen),
        _by_role(seen),
        _grading(seen),
        _answers(seen),
        _novelty(seen, documents),
        _cost(seen, effort),
    )
    found = chain.from_iterable(part.items() for part in parts)
    return {name: float(value) for name, value in found if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Seen:
    """A play with what several numbers are taken of."""

    played: Played

    @cached_property
    def groups(self) -> list[RolloutGroup]:
        """Groups of self-play proper: no examples of a warm-up."""
        return [item.group for item in self.played.rollouts if item.group.objective == "policy"]

    @cached_property
    def rollouts(self) -> dict[Role, list[Rollout]]:
        """All rollouts by role, without calls that chose a format."""
        return {
            role: [r for g in self.groups if g.role == role for r in g.rollouts if r.reason != FORMAT_CHOICE] for role in ROLES
        }

    @cached_property
    def pass_rates(self) -> dict[str, float]:
        """Share of right answers by task id, fresh and replayed."""
        answered = (group for group in self.groups if group.role == "reasoner" and group.rollouts)
        return {group.parent_id: _share(r.outcome == "correct" for r in group.rollouts) or 0.0 for group in answered}

    def rates_of(self, tasks: Iterable[Task]) -> list[float]:
        """Return the pass rates of the tasks that were attempted."""
        return [self.pass_rates[task.task_id] for task in tasks if task.task_id in self.pass_rates]


def _admission(seen: Seen) -> Numbers:
    proposals, tasks = seen.rollouts["challenger"], seen.played.tasks
    refused = Counter(_plain(r.reason or r.outcome) for r in proposals if r.outcome in ("unparsable", "refused"))
    readable = [a for a in seen.played.admissions if a.task_format is not None]
    return {
        "tasks": len(tasks),
        "valid_rate": _share(r.outcome == "valid" for r in proposals),
        "refilled_share": _refilled_share(seen.groups),
        "attempts_per_task": len(proposals) / len(tasks) if tasks else None,
        **{f"refused/{code}": count / len(proposals) for code, count in sorted(refused.items())},
        **{
            f"valid_rate/{name}": _share(not a.code for a in readable if a.task_format == name)
            for name in ("free_form", "choice")
        },
    }


def _refilled_share(groups: Sequence[RolloutGroup]) -> float:
    """Return the share of chunks that were asked for proposals again although a task of theirs had been attempted."""
    attempted: set[str] = set()
    refilled: set[str] = set()
    asked = [group for group in groups if group.role == "challenger"]
    for group in asked:
        if group.parent_id in attempted:
            refilled.add(group.parent_id)
        if any(r.outcome == "valid" and not r.reason for r in group.rollouts):
            attempted.add(group.parent_id)
    return len(refilled) / max(1, len({group.parent_id for group in asked}))


def _difficulty(seen: Seen, config: SelfplayConfig) -> Numbers:
    """The frozen base with and without the passage; where it was not asked without, the Reasoner's own blind answers count."""
    asked = [a for a in seen.played.admissions if a.open_book is not None]
    blind = {task.task_id for task in seen.played.tasks if task.regime != "open_book"}
    gaps = [(a.open_book or 0.0) - shut for a in asked if (shut := _closed_book(a, seen, blind)) is not None]
    wanted = config.open_book_agree - 1e-9
    return {
        "open_book_pass": _share((a.open_book or 0.0) * config.open_book_samples >= wanted for a in asked),
        "open_book_rate": _mean(a.open_book for a in asked if a.open_book is not None),
        "closed_book_rate": _mean(a.closed_book for a in seen.played.admissions if a.closed_book is not None),
        "grounded_difficulty": _mean(gaps),
    }


def _closed_book(admission: Admission, seen: Seen, blind: set[str]) -> float | None:
    if admission.closed_book is not None:
        return admission.closed_book
    return seen.pass_rates.get(admission.task_id) if admission.task_id in blind else None


def _signal(seen: Seen) -> Numbers:
    fresh, replayed = seen.played.tasks, seen.played.replayed
    rates = seen.rates_of(fresh)
    kinds = sorted({task.answer_kind for task in fresh})
    trained = [item.group for item in seen.played.rollouts if item.is_trained and item.group.objective == "policy"]
    return {
        "pass_rate": _share(r.outcome == "correct" for r in seen.rollouts["reasoner"]),
        "pass_rate/fresh": _mean(rates),
        "pass_rate/replay": _mean(seen.rates_of(replayed)),
        **{f"pass_rate/{name}": _mean(seen.rates_of(t for t in fresh if t.task_format == name)) for name in _FORMATS},
        **{f"pass_rate/kind_{kind}": _mean(seen.rates_of(t for t in fresh if t.answer_kind == kind)) for kind in kinds},
        "replayed_tasks": len(replayed),
        "p_zero": _share(p == 0.0 for p in rates),
        "p_one": _share(p == 1.0 for p in rates),
        "p_frontier": _share(0.0 < p < 1.0 for p in rates),
        **{f"p_decile/{d + 1}": _share(min(9, int(p * 10 + 1e-9)) == d for p in rates) for d in range(10)},
        "zero_advantage_share": _share(_is_flat(group) for group in trained),
        **{f"zero_advantage_share/{role}": _share(_is_flat(g) for g in trained if g.role == role) for role in ROLES},
    }


_FORMATS: Final = ("free_form", "choice")


def _is_flat(group: RolloutGroup) -> bool:
    """True when no rollout of the group has an advantage."""
    return len({rollout.reward for rollout in group.rollouts}) < 2


def _by_role(seen: Seen) -> Numbers:
    found: dict[str, float | None] = {}
    for role, rollouts in seen.rollouts.items():
        found |= {
            f"reward/{role}": _mean(r.reward for r in rollouts if r.reason not in _UNREWARDED),
            f"length_tokens/{role}": _mean(len(r.token_ids) for r in rollouts),
            f"truncated/{role}": _share(r.stop_reason == "length" for r in rollouts),
            f"zlib_ratio/{role}": zlib_ratio([r.text for r in rollouts]),
        }
    return found


_UNREWARDED: Final = ("not_attempted", "not_kept", "repeated")


def _grading(seen: Seen) -> Numbers:
    answers = seen.rollouts["reasoner"]
    failed = Counter(r.reason for r in answers)
    return {
        "format_failures": failed[NO_ANSWER] / len(answers) if answers else None,
        **{f"grading/{code}": failed[code] / len(answers) for code in VERIFIER_FAILURES if failed[code]},
    }


def _answers(seen: Seen) -> Numbers:
    """How the reference answers of the fresh tasks are spread."""
    tasks = seen.played.tasks
    letters = [t.answer for t in tasks if t.task_format == "choice" and len(t.options) == OPTIONS]
    shares, chi_square = letter_shares(letters, options=OPTIONS) if letters else ({}, None)
    kinds = Counter(task.answer_kind for task in tasks)
    return {
        "choice_share": _share(task.task_format == "choice" for task in tasks),
        **{f"kind_share/{kind}": count / len(tasks) for kind, count in sorted(kinds.items())},
        "top_answer_share": top_share(normalise(t.answer) for t in tasks if t.task_format == "free_form"),
        **{f"letter_share/{letter}": share for letter, share in shares.items()},
        "letter_chi_square": chi_square,
    }


def _novelty(seen: Seen, documents: Mapping[str, str]) -> Numbers:
    tasks, admitted = seen.played.tasks, [a for a in seen.played.admissions if not a.code]
    questions = [task.question for task in tasks]
    chunks = {task.chunk_id for task in tasks}
    return {
        "distinct_chunks": len(chunks),
        "distinct_documents": len({documents[c] for c in chunks}) if chunks <= documents.keys() else None,
        "similarity_max": max((a.similarity for a in admitted), default=None),
        "similarity_mean": _mean(a.similarity for a in admitted),
        "near_copy_share": _share(a.is_near_copy for a in admitted),
        "self_bleu": self_bleu(questions),
        "question_entropy_bits": word_entropy(questions),
        "cluster_entropy_bits": cluster_entropy(questions),
    }


def _cost(seen: Seen, effort: Effort | None) -> Numbers:
    drawn = sum(len(r.token_ids) for group in seen.groups for r in group.rollouts)
    every = sum(tokens for _, tokens in effort.tokens) if effort else drawn
    tasks = len(seen.played.tasks)
    spent = {f"seconds/{_plain(phase)}": seconds for phase, seconds in (effort.seconds if effort else ())}
    drew = {f"tokens/{_plain(phase)}": tokens for phase, tokens in (effort.tokens if effort else ())}
    examples = sum(len(item.group.rollouts) for item in seen.played.rollouts if item.group.objective == "supervised")
    return {
        "sampled_tokens": drawn,
        "tokens_per_task": every / tasks if tasks else None,
        "warmup_examples": examples or None,
        **spent,
        **drew,
    }


def _plain(code: str) -> str:
    return code if _CODE.fullmatch(code) else "other"


def _share(hits: Iterable[bool]) -> float | None:
    return _mean(float(hit) for hit in hits)


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None
