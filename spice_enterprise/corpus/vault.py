"""The originals of what was removed, encrypted: the only place where raw values persist, and off unless the policy asks.

In: (placeholder, value) pairs of a document; a master key.
Out: one value at a time, after the reading has been recorded; how often a value occurs, without any value.
Refuses: another key (`E_VAULT_KEY`), changed, moved or missing bytes (`E_VAULT`), originals of a document that was forgotten.
Not here: the master key (`keys.py`), who may read (the caller's record).

Each document has a random data key, wrapped by the master key; forgetting a document destroys its data key and rows. A value
is sealed with AES-256-GCM and bound to tenant, document, kind, placeholder and schema, so no row can stand for another. A
keyed digest of each value allows exact look-ups; its key is random, and wrapped as the data keys are.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from spice_enterprise import durable
from spice_enterprise.corpus.keys import KEY_BYTES, NONCE_BYTES
from spice_enterprise.errors import CorpusError, IntegrityError, SpiceError, StoreError
from spice_enterprise.protocols import KeyProvider

SCHEMA: Final = 1
_WAIT_S: Final = 30.0
_RUN: Final = re.compile(r"[^\W_]+")
_TABLES: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (document_id TEXT PRIMARY KEY, wrapped_key BLOB, entries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
  number INTEGER PRIMARY KEY, document_id TEXT NOT NULL, placeholder TEXT NOT NULL,
  exact BLOB NOT NULL, lookup BLOB NOT NULL, nonce BLOB NOT NULL, sealed BLOB NOT NULL,
  UNIQUE (document_id, placeholder, exact)
);
CREATE INDEX entries_by_lookup ON entries (lookup);
CREATE TABLE names (
  document_id TEXT NOT NULL, shown TEXT NOT NULL, placeholder TEXT NOT NULL, PRIMARY KEY (document_id, shown, placeholder)
) WITHOUT ROWID;
"""

State = Literal["kept", "forgotten", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultReading:
    """That somebody is about to read an original, and why. Never the value."""

    document_id: str
    placeholder: str
    reason: str


Record = Callable[[VaultReading], object]
"""Writes a reading into the audit log, durably; when it raises, nothing is read."""


def open_vault(path: Path, keys: KeyProvider, *, tenant: str, may_create: bool = False) -> "Vault":
    """Return the vault at `path`.

    Args:
        path: The database file; `-wal` and `-shm` lie beside it.
        keys: The master key.
        tenant: Whose values they are; a vault of another tenant is refused.
        may_create: Make an empty vault where there is no file.

    Raises:
        CorpusError: `E_VAULT_KEY` for another key, `E_NOT_IN_VAULT` when there is no vault.
        IntegrityError: `E_VAULT` when the file is damaged, open to others, or another tenant's.
    """
    with _damage():
        if may_create and not path.exists():
            _create(path, keys, tenant)
        _check_file(path)
        return Vault(path, keys, tenant)


class Vault:
    """An open vault, for one thread. Make one with `open_vault`."""

    def __init__(self, path: Path, keys: KeyProvider, tenant: str) -> None:
        """Open an existing file and check the key; for what it raises, see `open_vault`."""
        self._path = path
        self._keys = keys
        self._tenant = tenant
        self._database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        try:
            for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
                self._database.execute(f"PRAGMA {setting}")
            self._generation = self._fact("generation")
            if self._fact("tenant") != _tenant_mark(tenant) or self._fact("schema") != str(SCHEMA).encode():
                raise IntegrityError(
                    "the vault is another tenant's, or was made by another version", code="E_VAULT", hint="check path and version"
                )
            self._index_key = _unwrapped(keys, self._fact("index_key"), _bound(tenant, "index"))
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written is durable already."""
        self._database.close()

    def put(self, document_id: str, values: Mapping[str, str] | Iterable[tuple[str, str]]) -> int:
        """Keep (placeholder, value) pairs of a document and return how many are new.

        All or none of them are kept. Pairs that are there already stay as they are, so a document may be put again after an
        interruption. A document that was forgotten stays forgotten: 0.
        """
        pairs = values.items() if isinstance(values, Mapping) else values
        with self._transaction():
            row = self._database.execute("SELECT wrapped_key FROM documents WHERE document_id = ?", (document_id,)).fetchone()
            if row is None:
                data_key = secrets.token_bytes(KEY_BYTES)
                wrapped = _called(self._keys.wrap, data_key, self._bound_key(document_id))
                self._database.execute("INSERT INTO documents VALUES (?, ?, 0)", (document_id, wrapped))
            elif row[0] is None:
                return 0
            else:
                data_key = self._data_key(document_id, row[0])
            new = sum(self._put_one(document_id, AESGCM(data_key), *pair) for pair in dict.fromkeys(pairs))
            self._database.execute("UPDATE documents SET entries = entries + ? WHERE document_id = ?", (new, document_id))
            return new

    def name(self, document_id: str, shown: Iterable[tuple[str, str]]) -> None:
        """Remember what finally stands in the corpus for placeholders of a document, as (shown, placeholder) pairs.

        What was remembered of the document before is replaced.
        """
        with self._transaction():
            self._database.execute("DELETE FROM names WHERE document_id = ?", (document_id,))
            rows = [(document_id, *pair) for pair in dict.fromkeys(shown)]
            self._database.executemany("INSERT INTO names VALUES (?, ?, ?)", rows)

    def discard(self, document_id: str) -> int:
        """Take out a document that did not become part of a corpus; return how many entries went. It may be put again."""
        with self._transaction():
            self._database.execute("DELETE FROM names WHERE document_id = ?", (document_id,))
            gone = self._database.execute("DELETE FROM entries WHERE document_id = ?", (document_id,)).rowcount
            self._database.execute("DELETE FROM documents WHERE document_id = ? AND wrapped_key IS NOT NULL", (document_id,))
        self._empty_log()
        return gone

    def read(self, document_id: str, placeholder: str, *, reason: str, record: Record) -> tuple[str, ...]:
        """Return what a placeholder of a document stands for, in each way it was written there.

        Args:
            document_id: The document.
            placeholder: As it stands in the corpus, or the long one of the first pass.
            reason: Why it is read; goes into the record.
            record: Called before anything is decrypted. What it raises ends the reading.

        Raises:
            CorpusError: `E_NOT_IN_VAULT` when there is nothing, or no longer; or no reason is given.
            IntegrityError: `E_VAULT` when bytes were changed or moved.
        """
        if not reason.strip():
            raise CorpusError("an original is read for a reason", code="E_NOT_IN_VAULT", hint="say why; it is recorded")
        with self._transaction():
            found = self._database.execute(
                "SELECT wrapped_key, placeholder, exact, lookup, nonce, sealed FROM entries JOIN documents USING (document_id)"
                " WHERE document_id = ?1 AND placeholder IN"
                " (SELECT ?2 UNION SELECT placeholder FROM names WHERE document_id = ?1 AND shown = ?2) ORDER BY number",
                (document_id, placeholder),
            ).fetchall()
        if not found:
            raise CorpusError(
                f"no original of this placeholder: the document is {self.state_of(document_id)}",
                code="E_NOT_IN_VAULT",
                record_id=document_id,
                hint="an original that was forgotten cannot be had again",
            )
        record(VaultReading(document_id=document_id, placeholder=placeholder, reason=reason))
        aead = AESGCM(self._data_key(document_id, found[0][0]))
        return tuple(
            _opened(aead, nonce, sealed, self._bound_value(document_id, long, exact, lookup))
            for _, long, exact, lookup, nonce, sealed in found
        )

    def hits(self, value: str) -> int:
        """Return how many entries hold `value`; case, spacing and punctuation do not count. Nothing is decrypted."""
        with _damage():
            found = self._database.execute(
                "SELECT count(*) FROM entries WHERE lookup = ?", (self._digest("lookup", _plain(value)),)
            )
            return int(found.fetchone()[0])

    def state_of(self, document_id: str) -> State:
        """Return whether originals of a document are kept, were forgotten, or were never there."""
        with _damage():
            row = self._database.execute(
                "SELECT wrapped_key IS NULL FROM documents WHERE document_id = ?", (document_id,)
            ).fetchone()
        return "unknown" if row is None else "forgotten" if row[0] else "kept"

    def forget(self, document_id: str) -> int:
        """Destroy a document's data key and rows, and return how many entries it ever had; 0 when it is unknown.

        A tombstone stays: the id and the number. May be repeated. Copies of the file made earlier are not reached.
        """
        with self._transaction():
            self._database.execute("DELETE FROM names WHERE document_id = ?", (document_id,))
            self._database.execute("DELETE FROM entries WHERE document_id = ?", (document_id,))
            self._database.execute("UPDATE documents SET wrapped_key = NULL WHERE document_id = ?", (document_id,))
            row = self._database.execute("SELECT entries FROM documents WHERE document_id = ?", (document_id,)).fetchone()
        self._empty_log()
        return int(row[0]) if row else 0

    def rotate(self, new: KeyProvider) -> int:
        """Wrap every data key with `new` and return how many; the values are not touched. All of them or none.

        Vaults that are open elsewhere refuse to write from now on (`E_VAULT_KEY`) until they are opened with the new key.
        """
        with self._transaction():
            kept = self._database.execute(
                "SELECT document_id, wrapped_key FROM documents WHERE wrapped_key IS NOT NULL ORDER BY document_id"
            ).fetchall()
            for document_id, wrapped in kept:
                again = _called(new.wrap, self._data_key(document_id, wrapped), self._bound_key(document_id))
                self._database.execute("UPDATE documents SET wrapped_key = ? WHERE document_id = ?", (again, document_id))
            index_key = _called(new.wrap, self._index_key, _bound(self._tenant, "index"))
            generation = secrets.token_bytes(8)
            for name, value in (("index_key", index_key), ("generation", generation)):
                self._database.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))
        self._keys, self._generation = new, generation
        self._empty_log()
        return len(kept)

    def destroy(self) -> None:
        """Destroy all keys and rows, then the files: nothing can be turned back any more. The master key is left to its owner."""
        with self._transaction():
            self._database.execute("DELETE FROM names")
            self._database.execute("DELETE FROM entries")
            self._database.execute("UPDATE documents SET wrapped_key = NULL")
            self._database.execute("UPDATE facts SET value = x'' WHERE name IN ('index_key', 'generation')")
        self._empty_log()
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        durable.fsync_directory(self._path.parent)

    def _put_one(self, document_id: str, aead: AESGCM, placeholder: str, value: str) -> bool:
        """Keep one pair and return whether it is new."""
        exact, lookup = self._digest("exact", value), self._digest("lookup", _plain(value))
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = aead.encrypt(nonce, value.encode(), self._bound_value(document_id, placeholder, exact, lookup))
        done = self._database.execute(
            "INSERT OR IGNORE INTO entries (document_id, placeholder, exact, lookup, nonce, sealed) VALUES (?, ?, ?, ?, ?, ?)",
            (document_id, placeholder, exact, lookup, nonce, sealed),
        )
        return done.rowcount == 1

    def _data_key(self, document_id: str, wrapped: bytes) -> bytes:
        """Return a document's key. The master key was tried on opening: what it does not fit was changed."""
        try:
            return _unwrapped(self._keys, wrapped, self._bound_key(document_id))
        except CorpusError:
            raise _damaged("a data key was changed or moved") from None

    def _bound_key(self, document_id: str) -> bytes:
        return _bound(self._tenant, "key", document_id)

    def _bound_value(self, document_id: str, placeholder: str, exact: bytes, lookup: bytes) -> bytes:
        return _bound(self._tenant, "value", document_id, placeholder, exact.hex(), lookup.hex())

    def _digest(self, use: str, text: str) -> bytes:
        return hmac.digest(self._index_key, f"{use}|{self._tenant}|{text}".encode(), hashlib.sha256)

    def _fact(self, name: str) -> bytes:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is None or not row[0]:
            raise _damaged("the vault is empty or was destroyed")
        return bytes(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Do everything or nothing, alone, and only while the master key is still the one this vault was opened with."""
        with _damage():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if self._fact("generation") != self._generation:
                    raise CorpusError(
                        "the master key was changed meanwhile", code="E_VAULT_KEY", hint="open the vault again with the new key"
                    )
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _empty_log(self) -> None:
        """Move what was written into the file proper, so that no older page stays beside it. Raises `StoreError` E_LOCKED."""
        with _damage():
            is_busy = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StoreError(
                "done, but another process holds old pages of the vault", code="E_LOCKED", hint="end it and run this again"
            )


def _create(path: Path, keys: KeyProvider, tenant: str) -> None:
    """Make an empty vault: wholly there, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, durable.PRIVATE))
    try:
        database = sqlite3.connect(staged, isolation_level=None)
        try:
            facts = {
                "schema": str(SCHEMA).encode(),
                "tenant": _tenant_mark(tenant),
                "generation": secrets.token_bytes(8),
                "index_key": _called(keys.wrap, secrets.token_bytes(KEY_BYTES), _bound(tenant, "index")),
            }
            database.executescript(_TABLES)
            database.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        finally:
            database.close()
        durable.fsync_file(staged)
        # a link is made only where nothing is: a vault that appeared meanwhile is not overwritten
        os.link(staged, path)
    except FileExistsError:
        pass
    finally:
        staged.unlink()
    durable.fsync_directory(path.parent)


def _check_file(path: Path) -> None:
    """Refuse what is no plain file of one's own that nobody else can read."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        raise CorpusError(
            "there is no vault", code="E_NOT_IN_VAULT", hint="originals are kept only with `originals: vault`"
        ) from None
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise IntegrityError("the vault is not a plain file of your own", code="E_VAULT", hint="check the path")
    if facts.st_mode & 0o077:
        raise IntegrityError("others can read the vault", code="E_VAULT", hint="chmod 600, and find out who did")


def _called(call: Callable[[bytes, bytes], bytes], data: bytes, aad: bytes) -> bytes:
    """Call a key service; what it raises becomes `E_SERVER_AWAY`, without its text."""
    try:
        return call(data, aad)
    except SpiceError:
        raise
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        raise StoreError(
            f"the key service failed ({type(error).__name__})", code="E_SERVER_AWAY", hint="nothing was written; try again later"
        ) from None


def _unwrapped(keys: KeyProvider, wrapped: bytes, aad: bytes) -> bytes:
    return _called(keys.unwrap, wrapped, aad)


def _opened(aead: AESGCM, nonce: bytes, sealed: bytes, aad: bytes) -> str:
    try:
        return aead.decrypt(nonce, sealed, aad).decode()
    except (InvalidTag, ValueError):
        raise _damaged("an entry was changed or moved") from None


def _bound(tenant: str, kind: str, *parts: str) -> bytes:
    """Return what a ciphertext is bound to."""
    return json.dumps(["spice vault", SCHEMA, tenant, kind, *parts]).encode()


def _tenant_mark(tenant: str) -> bytes:
    return hashlib.sha256(_bound(tenant, "tenant")).digest()


def _plain(value: str) -> str:
    """Return a value as it is looked up: its letter-and-digit runs, folded."""
    return "\x1f".join(_RUN.findall(unicodedata.normalize("NFKC", value).casefold())) or value


@contextmanager
def _damage() -> Iterator[None]:
    """Turn what SQLite raises into our errors, without its text."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreError("another process is using the vault", code="E_LOCKED", hint="wait for it") from None
        if name.startswith("SQLITE_FULL"):
            raise StoreError("no disk space left for the vault", code="E_DISK_FULL", hint="free some and run again") from None
        raise _damaged(f"the vault cannot be read ({name})") from None


def _damaged(message: str) -> IntegrityError:
    return IntegrityError(message, code="E_VAULT", hint="restore the file from a backup; what was changed is not used")
