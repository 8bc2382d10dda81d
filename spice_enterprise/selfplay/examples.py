"""Examples of the warm-up, and the play they make.

In: a prompt and what is to be written after it, as text with a way to encode it, or as the tokens a model wrote.
Out: `Played` whose groups are `supervised`, each example with its source as its reason; how many came from where.
Refuses: nothing.
Not here: which examples a step has (`warmup.py`), what they say (`rewrites.py`).

An example that a model wrote names its adapter; one that code wrote has neither adapter nor log-probabilities.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spice_enterprise.protocols import Played, PlayedRollout
from spice_enterprise.records import Prompt, Role, Rollout, RolloutGroup

Encode = Callable[[Prompt, str], tuple[tuple[int, ...], tuple[int, ...]]]
"""Returns the tokens of a prompt, and those of what is to be written after it with the token that ends a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What is learned word for word after a prompt, who is to learn it, and where it came from."""

    role: Role
    parent_id: str
    """The chunk, or the proposal it was made of."""
    source: str
    template_id: str
    prompt_token_ids: tuple[int, ...] = field(repr=False)
    token_ids: tuple[int, ...] = field(repr=False)
    text: str = field(repr=False)
    logprobs: tuple[float, ...] = field(default=(), repr=False)
    adapter_id: str = ""
    adapter_digest: str = ""
    passages: tuple[str, ...] = ()
    """Ids of the chunks whose text the prompt shows a reasoner."""


def written(encode: Encode, prompt: Prompt, text: str, *, role: Role, parent_id: str, source: str) -> Example:
    """Return an example whose words code chose."""
    prompt_ids, token_ids = encode(prompt, text)
    return Example(
        role=role,
        parent_id=parent_id,
        source=source,
        template_id=prompt.template_id,
        prompt_token_ids=prompt_ids,
        token_ids=token_ids,
        text=text,
    )


def played_of(examples: Sequence[Example], *, step: int) -> Played:
    """Return examples as supervised groups of one, in order; the same example twice is one."""
    distinct = list(dict.fromkeys(examples))
    groups = tuple(_group(example, index, step) for index, example in enumerate(distinct))
    return Played(groups=groups, tasks=(), rollouts=tuple(PlayedRollout(group=group, is_trained=True) for group in groups))


def _group(example: Example, index: int, step: int) -> RolloutGroup:
    rollout = Rollout(
        role=example.role,
        parent_id=example.parent_id,
        adapter_id=example.adapter_id,
        adapter_digest=example.adapter_digest,
        template_id=example.template_id,
        step=step,
        index=index,
        token_ids=example.token_ids,
        logprobs=example.logprobs,
        text=example.text,
        stop_reason="stop",
        outcome="valid" if example.role == "challenger" else "correct",
        reason=example.source,
        reward=0.0,
    )
    return RolloutGroup(
        role=example.role,
        parent_id=example.parent_id,
        prompt_token_ids=example.prompt_token_ids,
        rollouts=(rollout,),
        objective="supervised",
        passages=example.passages,
    )


def counts_of(played: Played) -> tuple[tuple[str, int], ...]:
    """Return how many examples came from each source, and what became of the proposals; empty for a play of another kind."""
    rollouts = [(item.group, rollout) for item in played.rollouts for rollout in item.group.rollouts]
    taught = [rollout for group, rollout in rollouts if group.objective == "supervised"]
    if not taught:
        return ()
    counts = Counter({"examples": len(taught), "target_tokens": sum(len(rollout.token_ids) for rollout in taught)})
    counts.update(f"examples.{rollout.role}.{rollout.reason}" for rollout in taught)
    proposed = [r for group, r in rollouts if group.objective == "policy" and r.reason != "format_choice"]
    counts.update(f"proposals.{rollout.outcome}" for rollout in proposed)
    return tuple(sorted(counts.items()))
