"""What one step of reinforcement learning is asked to do, the same for every system.

In: the shape of a case (lengths of prompts and completions, groups, completions per group), a seed.
Out: prompts of exactly these lengths; which groups carry no signal; stub rewards; completions to replay.
Refuses: a prompt length the chat template alone exceeds.
Not here: the systems (`engine_arm.py`, `trl_arm.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spice_enterprise.records import Message, Prompt
from spice_enterprise.seeding import derive, stream
from spice_enterprise.training.chat import ChatTokenizer

WORDS: Final = ("the", "order", "of", "goods", "was", "made", "by", "each", "party", "under", "this", "plan", "and", "may", "not",
                "be", "sold", "before", "day", "two", "after", "all", "work", "on", "site", "has", "been", "paid")  # fmt: skip
"""One token each after a blank."""
SYSTEM: Final = "You read a passage and answer."
FIRST_ID: Final = 1000
"""Replayed tokens are ordinary ones: control tokens stand at the start of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The shape of a step: groups of `n` completions, group `g` with `prompts[g]` tokens and `tails[g]` new ones."""

    prompts: tuple[int, ...]
    tails: tuple[int, ...]
    n: int = 8
    silent_share: float = 0.0
    """Share of groups, drawn, whose rewards are all equal."""

    def steps(self, tokenizer: ChatTokenizer, *, count: int, seed: int) -> list[list[dict[str, Any]]]:
        """Return for each step its groups as JSON data: text, new tokens, whether they carry no signal."""
        return [[self._group(tokenizer, seed, (step, g)) for g in range(len(self.prompts))] for step in range(count)]

    def describe(self) -> str:
        """Return the case in words."""
        groups = ", ".join(f"{width}+{tail}" for width, tail in zip(self.prompts, self.tails, strict=True))
        silent = f", {self.silent_share:.0%} of the groups without a signal" if self.silent_share else ""
        return f"prompt+new tokens of each group {groups}; {self.n} completions each{silent}"

    def _group(self, tokenizer: ChatTokenizer, seed: int, place: tuple[int, int]) -> dict[str, Any]:
        text = text_of(tokenizer, self.prompts[place[1]], derive(seed, *place))
        return {"text": text, "tail": self.tails[place[1]], "is_silent": self._is_silent(seed, *place)}

    def _is_silent(self, seed: int, step: int, group: int) -> bool:
        # the first group of a step always has a signal: a step without any would teach nobody anything
        return group > 0 and stream(seed, "silent", step, group).random() < self.silent_share


def uniform(prompt: int, tail: int, *, groups: int, n: int = 8) -> Case:
    """Return a case whose groups are all alike."""
    return Case(prompts=(prompt,) * groups, tails=(tail,) * groups, n=n)


def messages_of(text: str) -> list[dict[str, str]]:
    """Return the conversation in the form chat templates take."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def prompt_of(text: str, tail: int) -> Prompt:
    """Return the same conversation as a `Prompt`."""
    return Prompt(
        messages=(Message(speaker="system", content=SYSTEM), Message(speaker="user", content=text)),
        template_id="bench",
        max_new_tokens=tail,
    )


def text_of(tokenizer: ChatTokenizer, width: int, seed: int) -> str:
    """Return drawn words whose whole conversation has `width` tokens."""
    frame = len(tokenizer.encode_prompt(prompt_of("x", 1))) - 1
    draws = stream(seed, "words")
    words = [draws.choice(WORDS) for _ in range(width - frame)]
    text = " ".join(words)
    if len(found := tokenizer.encode_prompt(prompt_of(text, 1))) != width:
        raise ValueError(f"a prompt of {width} tokens was asked for, {len(found)} came out")
    return text


def rewards_of(group: Mapping[str, Any], n: int) -> list[float]:
    """Return the stub's rewards: every second completion is right, or none where the group is silent."""
    return [0.0 if group["is_silent"] else float(j % 2) for j in range(n)]


def replayed(seed: int, step: int, group: int, *, n: int, tail: int, vocabulary: int) -> list[list[int]]:
    """Return `n` completions of `tail` ordinary tokens."""
    draws = stream(seed, "replay", step, group)
    return [[draws.randrange(FIRST_ID, vocabulary) for _ in range(tail)] for _ in range(n)]


def fingerprint(prompts: Sequence[Sequence[int]]) -> str:
    """Return a digest of token ids: both systems report it."""
    return hashlib.sha256(repr([list(ids) for ids in prompts]).encode()).hexdigest()
