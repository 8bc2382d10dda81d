"""Versioned templates: what the two roles are asked, word for word.

In: scrubbed text, a question, decoding settings.
Out: a `Prompt` whose `template_id` names the exact wording; every rollout carries it.
Refuses: to let a document speak for the chat: its text is fenced as data and chat-template tokens in it are broken.
Not here: which passage the Reasoner may see (`regimes.py`), and tokenising.

Changing a word means a new version in the template id; `tests/golden/prompts.txt` holds every wording. Worked examples are
earlier turns of the chat, fictional and a few words long: a prompt is paid for in every rollout. The assistant's turn is
begun for the model (`prefill`), so that a small one stays on the matter; it learns only from what it writes after that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from spice_enterprise.records import Message, Prompt, ScrubbedText
from spice_enterprise.selfplay.answers import LETTERS

FENCE: Final = '"""'
_CHAT_TOKENS: Final = re.compile(r"<\|(?=[\w ]{1,40}\|>)|(?<=\w)\|>|</?s>|\[/?INST\]|<</?SYS>>")

_SETTER: Final = Message(speaker="system", content="You write exam questions about documents.")
_ANSWERER: Final = Message(speaker="system", content="You answer questions about documents in a few words.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How a role writes: most new tokens, and the temperature."""

    max_new_tokens: int
    temperature: float


def challenger_span(sentence: str, answer: str, opener: str, decoding: Decoding) -> Prompt:
    """Ask for the question whose answer is `answer`, which stands in `sentence`; the question begins with `opener`."""
    return _prompt(
        "challenger.span.v1",
        (
            _SETTER,
            *_turns(
                f"{fence('Visitors sign in at Gate 4.')}\nAnswer: Gate 4",
                "Question: What is the name of the gate where visitors sign in?",
            ),
            *_turns(
                f"{fence('The canteen serves 220 meals per day.')}\nAnswer: 220 meals",
                "Question: How many meals does the canteen serve per day?",
            ),
            Message(speaker="user", content=f"{fence(sentence)}\nAnswer: {quiet(answer)}"),
        ),
        decoding,
        prefill=f"Question: {opener}",
    )


def challenger_pair(passage: ScrubbedText, decoding: Decoding) -> Prompt:
    """Ask for a question and its short answer, both of the model's choosing."""
    order = "Write one question about this text, and its answer in the exact words of the text."
    return _prompt(
        "challenger.pair.v1",
        (
            _SETTER,
            *_turns(
                f"{fence('The canteen serves 220 meals per day.')}\n{order}",
                "Question: How many meals does the canteen serve per day?\nAnswer: 220 meals",
            ),
            Message(speaker="user", content=f"{fence(passage)}\n{order}"),
        ),
        decoding,
        prefill="Question:",
        stop=("\n\n",),
    )


def reasoner_prompt(
    question: str, decoding: Decoding, *, options: Sequence[str] = (), passages: Sequence[ScrubbedText] = ()
) -> Prompt:
    """Ask `question`, with its options if it has any, and with exactly these passages."""
    shape, view = ("choice" if options else "free_form"), ("open_book" if passages else "no_book")
    example = "How many meals does the canteen serve per day?"
    shown = fence("The canteen serves 220 meals per day.") if passages else ""
    letters = ("90 meals", "220 meals") if options else ()
    return _prompt(
        f"reasoner.{shape}.{view}.v1",
        (
            _ANSWERER,
            *_turns(_asked(shown, example, letters), "Answer: B" if options else "Answer: 220 meals"),
            Message(speaker="user", content=_asked("\n".join(fence(p) for p in passages), question, options)),
        ),
        decoding,
        prefill="Answer:",
    )


def fence(text: str) -> str:
    """Return `text` between fences, unable to end the fence or to open a chat turn."""
    return f"{FENCE}\n{quiet(text).strip()}\n{FENCE}"


def quiet(text: str) -> str:
    """Break the fence and every chat-template token in `text` by spaces."""
    return _CHAT_TOKENS.sub(lambda match: " ".join(match.group()), text.replace(FENCE, "'''"))


def _asked(shown: str, question: str, options: Sequence[str]) -> str:
    listed = [f"{letter}) {quiet(option)}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(part for part in (shown, f"Question: {quiet(question)}", *listed) if part)


def _turns(user: str, assistant: str) -> tuple[Message, Message]:
    return Message(speaker="user", content=user), Message(speaker="assistant", content=assistant)


def _prompt(
    template_id: str, messages: tuple[Message, ...], decoding: Decoding, *, prefill: str, stop: tuple[str, ...] = ("\n",)
) -> Prompt:
    return Prompt(
        messages=messages,
        template_id=template_id,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        stop=stop,
        prefill=prefill,
    )
