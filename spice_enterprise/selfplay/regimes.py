"""What the Reasoner may see beside the question.

In: the regime and the chunk a task came from.
Out: a tuple of passages, empty outside `open_book`.
Refuses: nothing.
Not here: retrieval of distractor passages, and the wording around them (`prompts.py`).
"""

from collections.abc import Sequence

from spice_enterprise.records import Chunk, Regime, ScrubbedText


def passages_for(regime: Regime, chunk: Chunk, others: Sequence[Chunk] = ()) -> tuple[ScrubbedText, ...]:
    """Return the passages for one task: its source and then `others` in `open_book`, else nothing."""
    return (chunk.text, *(other.text for other in others)) if regime == "open_book" else ()
