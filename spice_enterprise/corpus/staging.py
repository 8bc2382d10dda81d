"""What is known of each document between the two passes over a corpus, on disk so that an interruption loses nothing.

In: prepared documents, under the digest of everything that decided how they were prepared.
Out: the same documents, after a restart too; memory does not grow with the corpus.
Refuses: what other settings, another policy or another code version prepared (it is not found, and made again).
Not here: how a document is prepared (`preparing.py`). A stage holds scrubbed text and keyed digests, nothing in the clear.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from spice_enterprise import durable
from spice_enterprise.corpus.values import Entry
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import Document, ScrubbedText, canonical_json, decode, sha256_hex

FOLDER: Final = ".staged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One document after the first pass: scrubbed by what it says itself, with long placeholders."""

    document: Document
    text: ScrubbedText = field(repr=False)
    """Pages are set apart by form feeds."""
    removed: tuple[tuple[str, int], ...]
    """(entity, values replaced), sorted by entity."""
    entries: tuple[Entry, ...] = field(repr=False)
    """Its values, as keyed digests, for the search in the other documents."""
    renderings: tuple[tuple[str, str], ...] = field(repr=False)
    """(long placeholder, final text) where the policy leaves a part readable, such as a year."""
    name_parts: tuple[str, ...] = field(repr=False)
    """Keyed digests of the parts of its persons' names, for the search in file names."""
    words: tuple[str, ...] = field(repr=False)
    """Keyed digests of the words of its names, of people, things and places."""
    people: tuple[tuple[str, str], ...] = field(repr=False)
    """(long placeholder, keyed spelling) of its persons, to tell who is who in other documents."""
    text_digest: str
    """Keyed digest of the raw text: two files with the same text are one document."""
    isolation: str
    """What the parser child was confined by."""


class Stage:
    """A folder of prepared documents."""

    def __init__(self, folder: Path, pipeline_digest: str) -> None:
        """Keep documents under `folder`, apart from those of other pipelines."""
        self._root = folder / FOLDER
        self._folder = self._root / pipeline_digest.removeprefix("sha256:")[:16]

    def key_of(self, document: Document) -> str:
        """Return what a document is staged under: the same bytes under another suffix are read in another way."""
        return sha256_hex(f"{document.keyed_digest}{PurePosixPath(document.uri).suffix.lower()}".encode())

    def save(self, prepared: Prepared, *, is_swept: bool = False) -> None:
        """Write one document durably; a swept one apart, since what the others show may be different next time."""
        path = self._path(self.key_of(prepared.document), is_swept=is_swept)
        durable.write_file(path, canonical_json(prepared), mode=durable.PRIVATE)

    def load(self, key: str, *, is_swept: bool = False) -> Prepared | None:
        """Return the document with this key, or None when it is not there or damaged."""
        try:
            return decode(Prepared, json.loads(self._path(key, is_swept=is_swept).read_bytes()))
        except (FileNotFoundError, ValueError, IntegrityError):
            return None

    def has(self, key: str) -> bool:
        """True when a document is there."""
        return self._path(key).exists()

    def clear(self) -> None:
        """Delete everything staged, of any pipeline: the corpus is written."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _path(self, key: str, *, is_swept: bool = False) -> Path:
        folder = self._folder.with_name(f"{self._folder.name}-swept") if is_swept else self._folder
        return folder / key[:2] / f"{key[2:40]}.json"
