"""Task to attempts: what the Reasoner is asked, and which of its answers are right.

In: a task, and passages only as a named argument.
Out: one prompt per task; one verdict per completion.
Refuses: to know a chunk. No signature here has one, so the passage can reach the Reasoner only through `regimes.py`.
Not here: rewards and groups (`episode.py`).
"""

from collections.abc import Sequence

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.protocols import Verifier
from spice_enterprise.records import Completion, Prompt, ScrubbedText, Task
from spice_enterprise.selfplay.answers import extract_answer
from spice_enterprise.selfplay.prompts import Decoding, reasoner_prompt


def ask(task: Task, config: SelfplayConfig, *, passages: Sequence[ScrubbedText] = ()) -> Prompt:
    """Return the Reasoner's prompt: the question, its options if any, and exactly these passages."""
    decoding = Decoding(max_new_tokens=config.reasoner_tokens, temperature=config.temperature)
    return reasoner_prompt(task.question, decoding, options=task.options, passages=passages)


def grade_all(task: Task, completions: Sequence[Completion], verifier: Verifier) -> tuple[bool, ...]:
    """Return one verdict per completion, in order."""
    return tuple(bool(verifier.grade(task, extract_answer(completion.text, task.answer_kind))) for completion in completions)
