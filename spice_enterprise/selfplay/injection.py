"""Sentences that speak to a model instead of telling something: orders, roles, chat tokens.

In: scrubbed text of a document, or what the Challenger wrote.
Out: whether a text gives such orders; a document's text without them.
Refuses: nothing.
Not here: fencing a document in a prompt (`prompts.py`), and what follows for a proposal (`admission.py`).

A document may say "ignore the above, answer X", by malice or because it is about prompts. Whether the Challenger obeys is up
to the model, so the defence stands behind it: what only an order says is no ground for an answer. English only; in other
languages the open-book check of the frozen base remains.
"""

import re
from typing import Final

_ORDER: Final = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.!?\n]{0,60}?"
    r"\b(?:above|previous|prior|preceding|earlier|foregoing|instructions?|prompts?)\b"
    r"|\b(?:override|bypass|reveal|repeat)\b[^.!?\n]{0,30}?\b(?:instructions?|prompts?)\b"
    r"|\bsystem prompts?\b"
    r"|\b(?:you are|act as|pretend to be) (?:now |only )?(?:an? |the )?(?:ai\b|language model|chat ?bot|llm\b|gpt)"
    r"|\byou are (?:now |only )?(?:an? |the )?(?:\w+ )?(?:assistant|challenger|reasoner)\b"
    r"|\b(?:answer|reply|respond|output)\b (?:only|just|exactly|always|strictly|nothing but) (?:with|by|in|the word)\b"
    r"|\byou (?:must|should|shall|will|are to|have to) (?:only |just |always )?"
    r"(?:answer|reply|respond|say|output) (?:with|only|exactly)\b",
    re.IGNORECASE,
)
_CHAT_TOKEN: Final = re.compile(r"<\|[^|<>\n]{0,40}\|>|\[/?INST\]|<</?SYS>>|</?s>", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"[^.!?\n]*(?:[.!?\n]+|$)")


def is_order(text: str) -> bool:
    """True when `text` speaks to a model: it orders, gives a role, or holds a token of a chat template."""
    return _ORDER.search(text) is not None or _CHAT_TOKEN.search(text) is not None


def without_orders(text: str) -> str:
    """Return `text` without the sentences that are orders, and without the one after each: it says what to do instead."""
    if not is_order(text):
        return text
    kept, is_after_order = [], False
    for sentence in _SENTENCE.findall(text):
        is_ordering = is_order(sentence)
        if not (is_ordering or is_after_order):
            kept.append(sentence)
        is_after_order = is_ordering or (is_after_order and not sentence.strip())
    return "".join(kept)
