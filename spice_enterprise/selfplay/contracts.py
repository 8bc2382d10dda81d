r"""Reading what the Challenger wrote: the fields of each contract, and what makes a text one of them.

In: the text of one completion.
Out: `Read` (question, answer, options, quotes) or a reason code; the format the model chose.
Refuses: as a code, never an exception: `unparsable` (no JSON object), `schema` (fields missing, of the wrong JSON type or
contradicting each other), `type` (the answer is not of its declared type).
Not here: whether a readable proposal is any good (`admission.py`), wording (`challenger_prompts.py`).

The paper is silent on what surrounds the object, so any thinking and any code fence are let pass and the last whole object
counts. Its fields are taken strictly. Text is hostile: no more than `MAX_CHARS` characters are read (the last ones, where an
object should stand; the first ones of a short contract), and an object is looked for at no more than `MAX_STARTS` places.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spice_enterprise.records import AnswerKind, TaskFormat
from spice_enterprise.selfplay.answers import is_same, kind_of, letter_of, read_number, strip_wrapping

MAX_CHARS: Final = 65_536
MAX_STARTS: Final = 64
MAX_STRING_WORDS: Final = 3
OPTIONS: Final = 4

FORMAT_FIELDS: Final[Mapping[str, str]] = {
    "suitable_for_mcq": "true or false",
    "suitable_for_free_form": "true or false",
    "best_answer_type": '"Integer", "Expression", "String", or null for multiple choice',
    "reason": "a string of less than 100 characters",
}
CHOICE_FIELDS: Final[Mapping[str, str]] = {
    "identified_answer": "the fact of the document that the question turns on",
    "answer_quote": "a list of verbatim quotes of the document that support it",
    "hardening_process": "how you made it harder",
    "exam_question": "the question without options",
    "correct_answer": "the right answer in words",
    "multiple_choice_question": "the question followed by the options, each on a line of its own: A) ... B) ... C) ... D) ...",
    "multiple_choice_correct": "the letter of the right option",
    "self_test_solution": "your own solution, step by step",
    "knowledge_and_reasoning_steps": "what has to be known and combined",
    "question_difficulty": '"Easy", "Medium" or "Hard"; aim at "Hard"',
}
FREE_FORM_FIELDS: Final[Mapping[str, str]] = {
    "identified_information": "the facts of the document that the question turns on",
    "relevant_quotes": "a list of verbatim quotes of the document that support them",
    "hardening_process": "how you made it harder",
    "question": "the question",
    "answer": "the answer alone: one number, one expression, or at most three words",
    "answer_type": '"Integer", "Float", "Expression" or "String"',
    "step_by_step_solution": "your own solution",
    "intermediate_results": "a list of results on the way",
    "difficulty_level": "a number from 1 to 10",
    "difficulty_justification": "why",
    "solving_time_estimate": "minutes",
    "required_concepts": "a list",
    "potential_errors": "a list of mistakes to expect",
}

_LABEL: Final = re.compile(r"\b(question|q|answer)\s?:", re.IGNORECASE)
_OBJECT_START: Final = re.compile(r'\{\s*"')
_OPTION: Final = re.compile(r"(?:^|(?<=\s))\(?([A-Z])[).:](?=\s)")
_LATEX: Final = re.compile(
    r"\\(?:(?=(?:boxed|binom|beta|bar|frac|neq|nu|right|rho|times|text|tfrac|theta|tau|tan)(?![a-z]))|[\"\\/bfnrt]|u[0-9a-fA-F]{4}|)"
)
"""A backslash and what JSON lets follow it; a command of LaTeX is what a model means by the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A proposal as its contract has it, or the `code` why it is none. `answer` of a choice is the text of the right option."""

    question: str = field(default="", repr=False)
    answer: str = field(default="", repr=False)
    answer_kind: AnswerKind = "text"
    quotes: tuple[str, ...] = field(default=(), repr=False)
    options: tuple[str, ...] = field(default=(), repr=False)
    code: str = ""


def asked_in(text: str) -> str:
    """Return the first question of a short contract: what follows its label, up to its question mark or the line's end."""
    text = text[:MAX_CHARS]
    marks = [match for match in _LABEL.finditer(text) if match.group(1).casefold() != "answer"][:MAX_STARTS]
    return next((asked for match in marks if (asked := _question(_labelled(text, match.end())))), "")


def pair_in(text: str) -> tuple[str, str]:
    """Return (question, answer) of a short contract without an offered answer, in either order; empty without a label."""
    text = text[:MAX_CHARS]
    mark = next((match for match in _LABEL.finditer(text) if match.group(1).casefold() == "answer"), None)
    return asked_in(text), strip_wrapping(_labelled(text, mark.end())) if mark else ""


def _labelled(text: str, begin: int) -> str:
    """Return the line from `begin` on, up to the next label in it."""
    line = text[begin:].lstrip(" ").partition("\n")[0]
    end = _LABEL.search(line)
    return line[: end.start() if end else len(line)]


def _question(line: str) -> str:
    asked, mark, _ = line.partition("?")
    return one_line(asked + mark)


def read_full(text: str, task_format: TaskFormat, *, offered: str = "", offered_kind: AnswerKind = "text") -> Read:
    """Read the object of the full contract; `offered` is the answer that code gave, or empty. Never raises."""
    found = last_object(text)
    if found is None:
        return Read(code="unparsable")
    names = CHOICE_FIELDS if task_format == "choice" else FREE_FORM_FIELDS
    if any(found.get(name) is None for name in names):
        return Read(code="schema")
    read = _choice(found) if task_format == "choice" else _free_form(found)
    if offered and not read.code:
        if not is_same(offered, read.answer, offered_kind):
            return Read(code="schema")
        return replace(read, answer=read.answer if read.options else offered, answer_kind=offered_kind)
    return read


def _free_form(found: Mapping[str, Any]) -> Read:
    question, answer, kind = (found[name] for name in ("question", "answer", "answer_type"))
    quotes = _texts(found["relevant_quotes"])
    if not (_is_text(question) and question.strip() and _is_text(kind) and quotes) or isinstance(answer, (list, dict)):
        return Read(code="schema")
    if not isinstance(answer, str) or (answer_kind := typed(answer, kind)) is None:
        return Read(code="type")
    return Read(question=one_line(question), answer=strip_wrapping(answer), answer_kind=answer_kind, quotes=quotes)


def _choice(found: Mapping[str, Any]) -> Read:
    asked, letter, quotes = found["multiple_choice_question"], found["multiple_choice_correct"], _texts(found["answer_quote"])
    if not (_is_text(asked) and _is_text(letter) and quotes):
        return Read(code="schema")
    stem, options = split_options(asked)
    place = "ABCD".find(letter_of(letter) or "?")
    if not stem or place < 0 or not are_distinct(options):
        return Read(code="schema")
    answer = options[place]
    return Read(question=stem, answer=answer, answer_kind=kind_of(answer), quotes=quotes, options=options)


def typed(answer: str, declared: str) -> AnswerKind | None:
    """Return how an answer of the declared type is graded, or None when it is not of that type."""
    plain = strip_wrapping(answer)
    if declared.casefold() in ("integer", "float"):
        number = read_number(plain)
        whole = number is not None and number.value.denominator == 1
        return "number" if number is not None and not number.unit and (whole or declared.casefold() == "float") else None
    if not any(c.isalnum() for c in plain) or "\n" in plain:
        return None
    if declared.casefold() == "expression":
        return "expression"
    is_string = declared.casefold() == "string" and len(plain.split()) <= MAX_STRING_WORDS
    return kind_of(plain) if is_string else None


def split_options(asked: str) -> tuple[str, tuple[str, ...]]:
    """Split a stem from its options; no options unless they are A to D in order and nothing more."""
    marks = [(match.group(1), match.start(), match.end()) for match in _OPTION.finditer(asked)]
    begin = next((i for i in range(len(marks) - 1, -1, -1) if marks[i][0] == "A"), None)
    listed = marks[begin:] if begin is not None else []
    if "".join(letter for letter, _, _ in listed) != "ABCD":
        return one_line(asked), ()
    ends = [start for _, start, _ in listed[1:]] + [len(asked)]
    options = tuple(one_line(asked[mark[2] : end]).rstrip(";,") for mark, end in zip(listed, ends, strict=True))
    return one_line(asked[: listed[0][1]]), options


def are_distinct(options: Sequence[str]) -> bool:
    """True when these are four different values, none of them empty."""
    if len(options) != OPTIONS or not all(options):
        return False
    return not any(is_same(a, b, kind_of(a)) for i, a in enumerate(options) for b in options[:i])


def read_format(text: str) -> TaskFormat | None:
    """Return the format the model chose, or None when its object does not say exactly one."""
    found = last_object(text) or {}
    choice, free_form = found.get("suitable_for_mcq"), found.get("suitable_for_free_form")
    if not (isinstance(choice, bool) and isinstance(free_form, bool)) or choice == free_form:
        return None
    return "choice" if choice else "free_form"


def last_object(text: str) -> dict[str, Any] | None:
    """Return the last whole JSON object with fields in `text`, its numbers as they were written; None without one."""
    text = _LATEX.sub(lambda match: match.group() if len(match.group()) > 1 else r"\\", text[-MAX_CHARS:])
    found, place = None, 0
    for _ in range(MAX_STARTS):
        start = _OBJECT_START.search(text, place)
        if start is None:
            break
        try:
            found, place = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            place = start.start() + 1
    return found


def _refuse(name: str) -> Any:
    raise ValueError(name)


class _Number(str):
    """A number of JSON as it was written: no rounding, no limit on its digits, and still no text."""

    __slots__ = ()


_DECODER: Final = json.JSONDecoder(strict=False, parse_float=_Number, parse_int=_Number, parse_constant=_refuse)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, _Number)


def _texts(value: Any) -> tuple[str, ...]:
    """Return one text or a list of texts as a tuple; empty when it is anything else or nothing is in it."""
    listed = [value] if _is_text(value) else value
    if not isinstance(listed, list) or not all(map(_is_text, listed)):
        return ()
    return tuple(item for item in listed if item.strip())


def one_line(text: str) -> str:
    """Return `text` with every run of white space as one space."""
    return " ".join(text.split())
