r"""Are two mathematical expressions the same? Asked of math-verify.

In: two expressions, in LaTeX or as one types them (`2*x**2`, `sqrt(2)`).
Out: True or False.
Refuses: to work without math-verify (`E_MISSING_EXTRA`). What cannot be read equals nothing.
Not here: numbers with units (`answers.py`), and limits of time and memory: `9^{9^{9^9}}` needs all of both (`grading.py`).

Only math-verify's LaTeX grammar is used. Its other reader calls SymPy's `parse_expr`, which evaluates Python.
"""

import logging
import re
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from spice_enterprise.errors import MissingExtraError

MAX_EXPRESSION_CHARS: Final = 500
_FUNCTIONS: Final = re.compile(
    r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|pi|infty|alpha|beta|gamma|lambda|mu|sigma)"
    r"(?![A-Za-z])"
)
_ROOT: Final = re.compile(r"\\sqrt\s?\(([^()]*)\)")
_POWER: Final = re.compile(r"\^\s?(-\s?\w{1,20}|\d{2,20}|\((-?[^()]{1,80})\))")
_DELIMITERS: Final = re.compile(r"^(?:\\\(|\\\[|\${1,2})|(?:\\\)|\\\]|\${1,2})$")


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """Import math-verify and build its tables, about a second. Raises `MissingExtraError`."""
    try:
        library = import_module("math_verify")
    except ImportError:
        raise MissingExtraError(
            "comparing expressions needs math-verify",
            code="E_MISSING_EXTRA",
            hint="pip install 'spice-enterprise[train]'",
        ) from None
    logging.getLogger("math_verify").setLevel(logging.CRITICAL + 1)  # it logs what it reads
    library.verify(_read(library, r"\frac{x^{2}+1}{2}"), _read(library, r"(1+x^2)\cdot 0.5"), timeout_seconds=None)
    return library


def is_equal(expected: str, given: str) -> bool:
    """True when both can be read and are equal. May take any time and memory. Raises `MissingExtraError`."""
    library = load()
    is_short = max(len(expected), len(given)) <= MAX_EXPRESSION_CHARS
    if not is_short or expected.count("'") != given.count("'"):  # math-verify takes a derivative for its function
        return False
    try:
        wanted, found = _read(library, expected), _read(library, given)
        return bool(wanted and found) and library.verify(wanted, found, timeout_seconds=None) is True
    except Exception:  # noqa: BLE001 - a grammar and an algebra system, fed by a model: whatever it is, it is no match
        return False


def _read(library: ModuleType, text: str) -> Any:
    """Return what math-verify makes of `text`: a list, empty when it cannot be read."""
    grammar = [library.LatexExtractionConfig()]
    return library.parse(f"${as_latex(text)}$", grammar, fallback_mode="no_fallback", parsing_timeout=None)


def as_latex(text: str) -> str:
    r"""Return `text` without delimiters, and as LaTeX where it is typed: `x**10` is `x^{10}`, `sqrt(2)` is `\sqrt{2}`."""
    bare = _DELIMITERS.sub("", text.strip()).strip().replace("**", "^").replace("$", "")
    bare = _ROOT.sub(r"\\sqrt{\1}", _FUNCTIONS.sub(r"\\\1 ", bare))
    return _POWER.sub(lambda match: "^{" + (match.group(2) or match.group(1)) + "}", bare)
