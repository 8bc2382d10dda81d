"""Task to attempts: what the Reasoner is asked.

In: a task; in `open_book` a shelf of passages.
Out: one prompt per task.
Refuses: to know a chunk. No signature here has one, so a passage can reach the Reasoner only through a `Shelf`; a shelf for
    a task of another regime is a `ValueError`.
Not here: grading (`grading.py`), rewards and groups (`rounds.py`).
"""

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import Prompt, ScrubbedText, Task
from spice_enterprise.selfplay.prompts import Decoding, reasoner_prompt
from spice_enterprise.selfplay.regimes import Shelf


def ask(task: Task, config: SelfplayConfig) -> Prompt:
    """Return the Reasoner's prompt without a document: the question, and its options if any."""
    return _prompt(task, config, passages=())


def ask_open_book(task: Task, shelf: Shelf, config: SelfplayConfig) -> Prompt:
    """Return the Reasoner's prompt with exactly these passages. Raises `ValueError` for a task of another regime."""
    if task.regime != "open_book":
        raise ValueError(f"a task of the regime {task.regime} is answered without passages")
    return _prompt(task, config, passages=shelf.passages)


def _prompt(task: Task, config: SelfplayConfig, *, passages: tuple[ScrubbedText, ...]) -> Prompt:
    decoding = Decoding(max_new_tokens=config.reasoner_tokens, temperature=config.temperature)
    return reasoner_prompt(task.question, decoding, options=task.options, passages=passages, contract=config.contract)
