"""What stands in the text where a value was removed.

In: a value with its label, one spelling for all its mentions, the workspace key and the PII policy.
Out: while a run is on, a long placeholder such as `[PERSON_k3f7abqt2m7xwz4c]`; once all documents are known, the text that
stays: the same placeholder cut short, an invented value, or what the policy leaves readable.
Refuses: to turn back a token of another key, or one that was changed (`E_VAULT_KEY`).
Not here: finding values (`finding.py`), the words of invented ones (`pseudonyms.py`), keeping originals (`vault.py`).

Two phases, because processes that scrub documents do not know one another's values. Phase 1 (`Placeholders`) depends on the
value, its label and the key alone. Phase 2 (`assign`, `render`) sees every tag of the run and depends on their set alone.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from spice_enterprise.corpus.calendar_dates import moved, year_of
from spice_enterprise.corpus.pseudonyms import candidates
from spice_enterprise.errors import CorpusError
from spice_enterprise.policy import PiiLabel, PiiPolicy
from spice_enterprise.records import Redaction

LONG_TAG_CHARS: Final = 16
"""80 bits: a million values share a tag with a chance of one in two trillion."""
SHORT_TAG_CHARS: Final = 6
_HASH_CHARS: Final = 26
_MAX_ENCRYPTED_BYTES: Final = 4_000
_MAX_SHIFT_DAYS: Final = 365

PLACEHOLDER: Final = re.compile(r"\[([A-Z][A-Z_]{1,30}?)(?:_(?:[a-z2-7]{6,16}|HASH_[a-z2-7]{26}|ENC_[a-z2-7]{26,8192}))?\]")
"""Every bracketed form: long, short, hash, encrypted, and without a tag. Group 1 is the label."""
LONG: Final = re.compile(r"\[([A-Z][A-Z_]{1,30}?)_([a-z2-7]{16})\]")
"""A placeholder of phase 1: group 1 is the label, group 2 the tag."""
_ENCRYPTED: Final = re.compile(r"\[([A-Z][A-Z_]{1,30}?)_ENC_([a-z2-7]{26,8192})\]")

_AS_WRITTEN: Final = frozenset({"mask", "encrypt", "year", "shift"})
"""Actions whose result shows how a value was written: another spelling is another placeholder."""


class Placeholders:
    """Phase 1, in any process: equal values get equal placeholders without anybody counting."""

    def __init__(self, policy: PiiPolicy, key: bytes) -> None:
        """Use the workspace key: without it nobody can compute the placeholder of a guess."""
        self._policy = policy
        self._key = key

    def placeholder(self, label: str, value: str, *, canonical: str, document_key: str = "") -> str:
        """Return what stands for `value` during the run.

        Args:
            label: What kind of value it is.
            value: As it stands in the document.
            canonical: One spelling for all mentions of the same thing.
            document_key: Of the document; used where the policy keeps documents apart.
        """
        action = self._policy.rule(label).action
        if action == "drop":
            return f"[{label}]"
        told = value if action in _AS_WRITTEN else canonical
        is_apart = action == "shift" or self._policy.placeholders == "document"
        scope = f"{document_key}|" if is_apart else ""
        return f"[{label}_{_tag(self._key, f'{scope}{label}|{told}', LONG_TAG_CHARS)}]"

    def rendering(self, label: str, value: str, *, canonical: str, document_key: str = "") -> str | None:
        """Return the text that is to replace the long placeholder in the end, or None where phase 2 decides."""
        rule = self._policy.rule(label)
        if rule.action == "mask":
            return masked_value(value, rule)
        if rule.action == "hash":
            scope = f"{document_key}|" if self._policy.placeholders == "document" else ""
            return f"[{label}_HASH_{_tag(self._key, f'hash|{scope}{label}|{canonical}', _HASH_CHARS)}]"
        if rule.action == "encrypt":
            return encrypt(value, label, self._key)
        if rule.action == "year":
            return year_of(value)
        if rule.action == "shift":
            return moved(value, _days(self._key, document_key))
        return None


def masked_value(value: str, rule: PiiLabel) -> str:
    """Return `value` with asterisks for its letters and digits, but for the last ones that the rule keeps."""
    marks = [i for i, char in enumerate(value) if char.isalnum()]
    kept = min(rule.keep_last, len(marks) // 2)
    hidden = set(marks[: len(marks) - kept])
    return "".join("*" if i in hidden else char for i, char in enumerate(value))


def encrypt(value: str, label: str, key: bytes) -> str | None:
    """Return a token that `decrypt` turns back; equal values give equal tokens. None for what is too long or empty."""
    data = value.encode()
    if not 0 < len(data) <= _MAX_ENCRYPTED_BYTES:
        return None
    sealed = AESSIV(_siv_key(key)).encrypt(data, [label.encode()])
    return f"[{label}_ENC_{_base32(sealed)}]"


def decrypt(token: str, key: bytes) -> str:
    """Return the value of a token of `encrypt`. Raises `CorpusError` E_VAULT_KEY when the key or the token is another one."""
    found = _ENCRYPTED.fullmatch(token)
    try:
        if found is None:
            raise ValueError
        sealed = base64.b32decode(found[2].upper() + "=" * (-len(found[2]) % 8))
        return AESSIV(_siv_key(key)).decrypt(sealed, [found[1].encode()]).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise CorpusError(
            "not a token of this key, or one that was changed", code="E_VAULT_KEY", hint="use the workspace's own key"
        ) from None


def assign(tags: Iterable[str], policy: PiiPolicy, is_taken: Callable[[str], bool]) -> dict[str, str]:
    """Return what finally stands for each long placeholder among `tags`; other strings in it are only kept clear of.

    A pure function of the set of tags: their order does not count.

    Args:
        tags: Every placeholder of the run.
        policy: Says which labels get invented values.
        is_taken: True for a text in which a real value of the corpus can be read.
    """
    every = set(tags)
    by_label: dict[str, list[str]] = defaultdict(list)
    for found in filter(None, map(LONG.fullmatch, every)):
        by_label[found[1]].append(found[2])
    final: dict[str, str] = {}
    used: set[str] = set()
    for label in sorted(by_label):
        in_order = sorted(by_label[label])
        is_invented = policy.rule(label).action == "pseudonymise"
        for tag, short in zip(in_order, _shortened(label, in_order, every), strict=True):
            invented = _invented(label, tag, used, is_taken) if is_invented else None
            final[f"[{label}_{tag}]"] = invented or short
    return final


def tags_in(text: str) -> set[str]:
    """Return every placeholder that stands in `text`."""
    return {match.group() for match in PLACEHOLDER.finditer(text)}


def render(text: str, final: Mapping[str, str]) -> tuple[str, tuple[Redaction, ...]]:
    """Return `text` with its long placeholders replaced, and where something removed stood, in offsets of the new text."""
    pieces: list[str] = []
    redactions = []
    end = length = 0
    for match in PLACEHOLDER.finditer(text):
        shown = final.get(match.group(), match.group())
        start = length + match.start() - end
        pieces += [text[end : match.start()], shown]
        end, length = match.end(), start + len(shown)
        redactions.append(Redaction(start=start, end=length, entity=match.group(1)))
    return "".join([*pieces, text[end:]]), tuple(redactions)


def _shortened(label: str, in_order: list[str], present: Collection[str]) -> Iterator[str]:
    """Yield each sorted tag's placeholder with no more characters than set it apart from its neighbours and from `present`."""
    for i, tag in enumerate(in_order):
        neighbours = in_order[max(0, i - 1) : i] + in_order[i + 1 : i + 2]
        size = max([SHORT_TAG_CHARS, *(1 + _common(tag, other) for other in neighbours)])
        while (short := f"[{label}_{tag[:size]}]") in present and size < LONG_TAG_CHARS:
            size += 1
        yield short


def _common(one: str, other: str) -> int:
    """Return how many characters two tags begin with together."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=True)))


def _invented(label: str, tag: str, used: set[str], is_taken: Callable[[str], bool]) -> str | None:
    """Return the tag's first free invented value and take it, or None."""
    for candidate in candidates(label, tag):
        folded = candidate.casefold()
        if folded in used or any(map(is_taken, {candidate, *candidate.split()})):
            continue
        used.add(folded)
        return candidate
    return None


def _days(key: bytes, document_key: str) -> int:
    """Return by how many days the dates of a document move: 1 to 365, back or forth."""
    drawn = int.from_bytes(hmac.digest(key, f"shift|{document_key}".encode(), hashlib.sha256)[:8], "big")
    days = drawn % (2 * _MAX_SHIFT_DAYS) - _MAX_SHIFT_DAYS
    return days if days < 0 else days + 1


def _tag(key: bytes, message: str, size: int) -> str:
    return _base32(hmac.digest(key, message.encode(), hashlib.sha256))[:size]


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _siv_key(key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=64, salt=None, info=b"spice pii encrypt").derive(key)
