"""What code can say about a train chunk in other words, to be learned word for word.

In: a chunk, the self-play settings.
Out: `Rewrite`s (a prompt and what is to be written after it): clozes and questions without the passage, restatements of its
    sentences, its continuation; and the question about one value (`question_about`).
Refuses: chunks that training may not see (`ValueError`); sentences that give orders to a model are left out.
Not here: which rewrites a step learns, and token ids (`warmup.py`). No model takes part.

Values are asked for in the Reasoner's own words without a passage, so that what is learned can be recalled in self-play;
never in the words of the exam. A restatement is asked for by the section or by a sentence that stands beside it: a prompt
that does not say which passage is meant would only teach to make passages up.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import Final, Literal

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import Chunk, Message, Prompt, Regime, Task
from spice_enterprise.selfplay.answers import LETTERS
from spice_enterprise.selfplay.injection import without_orders
from spice_enterprise.selfplay.prompts import Decoding, fence, prompt_of, quiet
from spice_enterprise.selfplay.reasoner import ask
from spice_enterprise.selfplay.spans import PLACEHOLDER, Hint, find_hints, sentence_around

RewriteKind = Literal["cloze", "question", "restatement", "continuation"]

BLANK: Final = "____"
MAX_RESTATED: Final = 3
"""Sentences of one restatement: a long one would outweigh the answers, since every token counts the same."""
MAX_SENTENCE_CHARS: Final = 400
MAX_PART_WORDS: Final = 10
MAX_QUESTION_WORDS: Final = 24
MIN_WORDS: Final = 4
MIN_UNSPACED: Final = 8
"""Letters that count as enough where there are no spaces to count words by."""

_BORDER: Final = re.compile(
    r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[\u201c\u00c0-\u00de\u0391-\u03a9\u0410-\u042f])"
    r"|(?<=[\u3002\uff01\uff1f])(?![\u300d\u300f\u201d])\s*|\n+"
)
_UNSPACED: Final = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of writing without spaces between words: Thai, Lao, Khmer, Japanese, Chinese."""
_CELL: Final = re.compile(r"(?:.{0,400}[.;] )?(?P<key>[A-Z][\w/-]* [\w /-]{1,40}): ")
_INVERTED: Final = re.compile(
    r"(?P<subject>[A-Za-z][\w' -]{1,80}?) (?P<aux>is|are|was|were|shall|will|must|may|can|has|have|had)"
    r"(?P<rest>(?: [\w', -]{1,80})?)"
)
_CLAUSE: Final = re.compile(
    r"(?:[,;:)] (?:and |or |that |but |then )?|\sthat )"
    r"(?P<clause>(?:the|each|every|any|all|[A-Z])[\w' -]{1,60}? (?:is|are|was|were|shall|will|must|may)(?: [\w' -]{1,60})?)$"
)
"""The last clause of a long sentence, with a subject and an auxiliary of its own."""
_NUMERAL: Final = re.compile(r"\s\w+(?:-\w+)? \($")
"""The words before a value in brackets: "thirty (30) days"."""
_LOOSE_END: Final = re.compile(r"(?:^|\s+)(?:on|in|at|of|for|the|a|an|about|approximately)$", re.IGNORECASE)
_KEPT_END: Final = re.compile(
    r"\s(?:within|after|before|until|from|to|than|between|by|over|under|least|most|exceed|exceeding)$", re.IGNORECASE
)
"""What stands before the value and may not be lost: "within 30 days" is not "30 days"."""
_NO_SUBJECT: Final = re.compile(
    r"(?:It|They|He|She|We|You|I|This|That|These|Those|There|Here|Then|Such|Which|Who|If|When|While|Upon|Under|In|On|At|By|For|From"
    r"|To|After|Before|As|And|But|Or|Further|However|Also|Recently|Source)\b"
)
_BREAK: Final = re.compile(r"[^\w\s'%-]|\s+(?:and|but|which|who|provided|unless|or|although|that)\s")
_ARTICLE: Final = re.compile(r"(?:The|A|An|Each|Every|Any|All|Its|Their)\b")
_DEFINED: Final = re.compile(r"[\"\u201d]? (?:shall mean|means) (?P<meaning>[^.,;:()\"\u201c]{16,120})(?=[.,;:()]|$)")
_BLANK_ASKED: Final[Mapping[str, str]] = {
    "When": "Which date",
    "At what time": "What time",
    "In what year": "Which year",
    "How much": "Which amount",
    "What percentage": "What percentage",
    "Which defined term": "Which defined term",
    "What is the name of the": "Which name",
}
"""What stands in a blank, by how a question about it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """One example: what is asked, and the words to be learned."""

    kind: RewriteKind
    prompt: Prompt
    text: str = field(repr=False)


def rewrites_of(chunk: Chunk, config: SelfplayConfig) -> tuple[Rewrite, ...]:
    """Return every rewrite of a chunk, in a fixed order. Raises `ValueError` for a chunk of another split than `train`."""
    require_train(chunk)
    text = without_orders(chunk.text)
    told = [sentence for sentence in sentences(text) if _says_something(sentence)]
    return (*_recalled(chunk, text, config), *_restated(chunk, told), *_continued(chunk, told))


def require_train(chunk: Chunk) -> None:
    """Raise `ValueError` unless training may see the chunk."""
    if chunk.split != "train":
        raise ValueError(f"chunk {chunk.chunk_id} is not a train chunk")


def answer_text(answer: str, prompt: Prompt) -> str:
    r"""Return the right answer as the Reasoner should write it after its prompt: quoted, bare, or in `\boxed{}`."""
    if not prompt.prefill:
        return rf"\boxed{{{answer}}}"
    return f'{answer}"' if prompt.prefill.endswith('"') else f" {answer}"


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of `text`, each in one line; what is longer than `MAX_SENTENCE_CHARS` is cut at spaces."""
    lines = (" ".join(piece.split()) for piece in _BORDER.split(text))
    return [part for line in lines for part in wrap(line, MAX_SENTENCE_CHARS, break_on_hyphens=False)]


def _says_something(sentence: str) -> bool:
    return len(sentence.split()) >= MIN_WORDS or len(_UNSPACED.findall(sentence)) >= MIN_UNSPACED


def _recalled(chunk: Chunk, text: str, config: SelfplayConfig) -> Iterator[Rewrite]:
    """Yield what asks for one value, without the passage."""
    for hint in find_hints(text):
        sentence = sentence_around(text, hint)
        blanked = sentence.replace(hint.value, BLANK, 1)
        asked: tuple[tuple[RewriteKind, str], ...] = (
            ("cloze", f"{_asked_for(hint)} belongs in the blank? {blanked}"),
            ("question", question_about(sentence, hint)),
        )
        for kind, question in asked:
            if question and hint.value.casefold() not in question.casefold():
                prompt = ask(task_of(chunk, question, hint), config)
                yield Rewrite(kind=kind, prompt=prompt, text=answer_text(hint.value, prompt))


def task_of(chunk: Chunk, question: str, hint: Hint, *, regime: Regime = "closed_book") -> Task:
    """Return a question of code about a value of a chunk."""
    return Task(
        chunk_id=chunk.chunk_id,
        rollout_id="",
        question=question,
        answer=hint.value,
        answer_kind=hint.kind,
        task_format="free_form",
        regime=regime,
    )


def choice_of(task: Task, options: Sequence[str], letter: str) -> Task:
    """Return `task` with these options, of which the one at `letter` is right."""
    if options[LETTERS.index(letter)] != task.answer:
        raise ValueError("the letter does not stand for the answer")
    return replace(task, answer=letter, answer_kind="choice", task_format="choice", options=tuple(options))


def _restated(chunk: Chunk, told: Sequence[str]) -> Iterator[Rewrite]:
    """Yield what stands next to a sentence, last first, and what a section says, as a list of facts."""
    for start in range(1, len(told), MAX_RESTATED):
        listed = told[start : start + MAX_RESTATED]
        order = f"This is known:\n{fence(told[start - 1])}\nWhat else is said there? Begin with the last point."
        yield _told(order, " ".join(reversed(listed)), "restatement")
    if chunk.section and told:
        listed = told[:MAX_RESTATED]
        facts = "\n".join(f"- In {chunk.section}: {sentence}" for sentence in listed)
        yield _told(f"List what is said in: {quiet(chunk.section)}", facts, "restatement")


def _continued(chunk: Chunk, told: Sequence[str]) -> Iterator[Rewrite]:
    """Yield the passage itself after its first sentence."""
    if len(told) > 1:
        yield _told(f"Go on with this text:\n{fence(told[0])}", " ".join(told[1:]), "continuation")


def _told(order: str, text: str, kind: RewriteKind) -> Rewrite:
    message = Message(speaker="user", content=order)
    prompt = prompt_of(f"warmup.{kind}.v1", (message,), Decoding(max_new_tokens=1, temperature=1.0))
    return Rewrite(kind=kind, prompt=prompt, text=text)


# --- questions --------------------------------------------------------------------------------------------------------


def question_about(sentence: str, hint: Hint) -> str:
    """Return a question that `hint` answers, beginning with its opener; empty where the sentence does not bend so far.

    `Key name: value` becomes "What is the key name?"; a sentence with an auxiliary is turned round: "The fee is 45 euros per
    month" is "How much is the fee per month?"; a definition asks for its term.
    """
    place = sentence.find(hint.value)
    before, after = sentence[:place], sentence[place + len(hint.value) :]
    if place < 0 or PLACEHOLDER.search(sentence):
        return ""
    if hint.opener == "Which defined term":
        meaning = _DEFINED.match(after)
        return f"{hint.opener} means {' '.join(meaning['meaning'].split())}?" if meaning else ""
    if hint.opener == "What is the":
        cell = _CELL.fullmatch(before)
        return f"{hint.opener} {cell['key'].lower()}?" if cell else ""
    return "" if hint.opener.startswith("What is") else _turned_round(before.rstrip(), after, hint)


def _turned_round(before: str, after: str, hint: Hint) -> str:
    """Ask by turning subject and auxiliary round, else by "is it that"."""
    before = _NUMERAL.sub("", before).strip()
    clause = _CLAUSE.search(before)
    before = clause["clause"] if clause else before
    if not (clause or before[:1].isupper()) or _NO_SUBJECT.match(before) or PLACEHOLDER.search(before):
        return ""
    is_bare = not _KEPT_END.search(before)
    while _LOOSE_END.search(before):
        before = _LOOSE_END.sub("", before)
    unit = hint.opener.removeprefix("How many ")
    goes_on = after.lstrip(") ").removeprefix(unit)
    tail = " ".join(_BREAK.split(goes_on, maxsplit=1)[0].split()[:MAX_PART_WORDS])
    match = _INVERTED.fullmatch(before) if is_bare else None
    if not match and (len(before.split()) < MIN_WORDS - 1 or re.search(r"[^\w\s'%&-]", before)):
        return ""
    if match and len(match["subject"].split()) <= MAX_PART_WORDS:
        asked = f"{match['aux']} {_lowered(match['subject'])}{match['rest']} {tail}"
    else:
        asked = f"is it that {_lowered(before)} {tail}"
    words = f"{hint.opener} {asked}".split()
    return " ".join(words) + "?" if len(words) <= MAX_QUESTION_WORDS else ""


def _lowered(subject: str) -> str:
    """Return a subject as it stands inside a sentence: names keep their first letter."""
    return subject[0].lower() + subject[1:] if _ARTICLE.match(subject) else subject


def _asked_for(hint: Hint) -> str:
    """Return what stands in the blank: "How many days" asks for a number of days."""
    counted = hint.opener.removeprefix("How many ")
    return _BLANK_ASKED.get(hint.opener, f"Which number of {counted}" if counted != hint.opener else "Which value")
