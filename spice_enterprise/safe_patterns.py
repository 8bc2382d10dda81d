"""Regular expressions that a policy brings along: bounded before they run, and tried on bait.

In: an expression, and texts it was written for.
Out: nothing when it may be used.
Refuses: what does not compile, repetition without an upper limit, backreferences, and anything that could take many
ways through one place of a text (`ValueError` that names the column); what is slow on bait all the same (`is_quick`).
Not here: what an expression means (`policy.py`); the product's own rules, which the tests hold to the same standard.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Final

MAX_PATTERN_CHARS: Final = 1_000
MAX_WAYS: Final = 20_000
"""Most ways in which one place of a text can be matched; what backtracking may have to try there."""
MAX_REPEATS: Final = 1_000
_BAIT_CHARS: Final = 5_000
_CPU_S: Final = 1
_WALL_S: Final = 60.0
"""Only a machine that stands still needs so long; the limit that counts is CPU time."""
_QUANTIFIER: Final = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\}|\{,\d*\})[?+]?")
_GROUP: Final = re.compile(r"\((?:\?(?::|=|!|<=|<!|>|P<\w{1,40}>|[aims]{1,4}[:)]))?")
_TRIAL: Final = """
import json, re, sys
told = json.loads(sys.stdin.read())
pattern = re.compile(told["pattern"])
for text in told["texts"]:
    for _ in pattern.finditer(text):
        pass
"""


def check_pattern(pattern: str) -> None:
    """Return when `pattern` compiles and is bounded.

    Raises:
        ValueError: Otherwise; its text names the column, counted from 1, and never quotes the pattern.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"column {MAX_PATTERN_CHARS + 1}: longer than {MAX_PATTERN_CHARS} characters")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        column = (getattr(error, "pos", None) or 0) + 1
        raise ValueError(f"column {column}: not a regular expression") from None
    if compiled.match(""):
        raise ValueError("column 1: matches the empty text")
    _Ways(pattern).of_all()


def is_quick(pattern: str, samples: Sequence[str]) -> bool:
    """True when a checked pattern gets through bait made of `samples` in one second of processor time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))

    told = json.dumps({"pattern": pattern, "texts": list(_bait(samples))})
    try:
        # a process of its own: a thread that backtracks cannot be stopped
        done = subprocess.run(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            input=told, text=True, capture_output=True, timeout=_WALL_S, check=False, preexec_fn=limit, env={},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _bait(samples: Sequence[str]) -> Iterator[str]:
    """Yield texts that nearly match for a long time: each sample with one of its characters repeated."""
    for char in "aA1 -.":
        yield char * _BAIT_CHARS
    for sample in samples[:6]:
        cut = sample[:200]
        for place in range(0, len(cut), max(1, len(cut) // 12)):
            yield cut[:place] + cut[place] * _BAIT_CHARS + "\x00"
        yield (cut + " ") * (_BAIT_CHARS // (len(cut) + 1))


class _Ways:
    """Counts in how many ways a compiled expression can match at one place, from its text."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def of_all(self) -> int:
        """Return the number for the alternatives up to the next closing bracket. Raises `ValueError` above the limit."""
        total = self._of_sequence()
        while self._next() == "|":
            self._at += 1
            total += self._of_sequence()
        return self._limited(total, self._at)

    def _of_sequence(self) -> int:
        ways = 1
        while self._next() not in ("", "|", ")"):
            start = self._at
            ways = self._limited(ways * self._repeated(self._of_item()), start)
        return ways

    def _of_item(self) -> int:
        """Step over one character, class or group."""
        char = self._next()
        if char == "(":
            return self._of_group()
        if char == "[":
            self._skip_class()
        elif char == "\\":
            if self._pattern[self._at + 1] in "123456789":
                raise ValueError(f"column {self._at + 1}: a backreference; write out what may follow")
            self._at += 2
        else:
            self._at += 1
        return 1

    def _of_group(self) -> int:
        head = _GROUP.match(self._pattern, self._at)
        assert head is not None  # noqa: S101 - the bracket alone matches
        if head.group() == "(" and self._pattern[self._at + 1] == "?":
            raise ValueError(f"column {self._at + 1}: this kind of group is not allowed")
        self._at = head.end()
        if head.group().endswith(")"):
            return 1
        ways = self.of_all()
        self._at += 1
        return ways

    def _skip_class(self) -> None:
        """Step over `[...]`; a bracket that comes first, or behind a backslash, is part of it."""
        self._at += 2 if self._pattern[self._at + 1] == "^" else 1
        is_first = True
        while is_first or self._next() != "]":
            self._at += 2 if self._next() == "\\" else 1
            is_first = False
        self._at += 1

    def _repeated(self, ways: int) -> int:
        """Return the number for an item with the quantifier that follows it, if one does."""
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return ways
        start, self._at = self._at, found.end()
        least, most = _bounds(found.group())
        if most is None or most > MAX_REPEATS:
            raise ValueError(
                f"column {start + 1}: repetition without an upper limit up to {MAX_REPEATS}; write one, such as {{1,20}}"
            )
        if ways == 1:
            return most - least + 1
        total = 0
        for count in range(least, most + 1):
            total = self._limited(total + min(ways, MAX_WAYS + 1) ** min(count, 20), start)
        return total

    def _limited(self, ways: int, start: int) -> int:
        if ways > MAX_WAYS:
            raise ValueError(f"column {start + 1}: too many ways to match one text; nest less, or lower the limits of repetition")
        return ways

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]


def _bounds(quantifier: str) -> tuple[int, int | None]:
    """Return the least and the most repetitions; None is no limit."""
    sign = quantifier[0]
    if sign != "{":
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    least, comma, most = quantifier[1 : quantifier.index("}")].partition(",")
    if not comma:
        return int(least), int(least)
    return int(least or 0), int(most) if most else None
