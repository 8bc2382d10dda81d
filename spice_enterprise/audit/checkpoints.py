"""Signed tree heads: C2SP tlog-checkpoint in a C2SP signed-note, with Ed25519.

In: origin, size and root of the log, and its private key.
Out: a short text that anyone with the public key can check, now or in ten years; the trust file a reviewer keeps.
Refuses: notes that are not exactly in the form.
Not here: when a head is signed (`audit/log.py`), what a wrong one means (`audit/verify.py`).

    <origin>
    <size>
    <root, base64>
    <empty line>
    — <name> <base64 of key id and signature>
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from spice_enterprise import durable
from spice_enterprise.audit.records import timestamp
from spice_enterprise.errors import IntegrityError, StoreError
from spice_enterprise.records import canonical_json

ED25519: Final = b"\x01"
_KEY_NAME: Final = re.compile(r"[^\s+]+")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_KEY_BYTES: Final = 32
_MAX_NOTE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A tree head: which log, how many records, their root (32 bytes)."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who claims to have signed, the four-byte key id, and the signature bytes."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A parsed checkpoint. `text` is what the signatures are over; lines of other signers (witnesses) are kept."""

    head: Head
    text: bytes
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey:
    """A public log key (32 bytes) and when it may have signed, as log timestamps; `valid_until` None is: still."""

    public: bytes
    valid_from: str
    valid_until: str | None = None

    def is_valid_at(self, ts: str) -> bool:
        """True when the key may have signed at `ts`."""
        return self.valid_from <= ts and (self.valid_until is None or ts < self.valid_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the reviewer holds: the log's name and keys, heads seen outside (size, root), the policies that may decide."""

    origin: str
    log_keys: tuple[LogKey, ...]
    anchors: tuple[tuple[int, bytes], ...]
    policy_digests: tuple[str, ...]


def load_or_create_log_key(path: Path) -> bytes:
    """Return the log's private key (32 bytes), making it with mode 0600 the first time."""
    key = durable.load_or_create_secret(path, _KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{path.name}: not a {_KEY_BYTES}-byte key", code="E_KEY", hint="restore the key file from its backup")
    return key


def public_key(private: bytes) -> bytes:
    """Return the 32 public bytes of a private key."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def key_id(name: str, public: bytes) -> bytes:
    """Return the signed-note key id: the first four bytes of SHA-256(name, newline, 0x01, public key)."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def sign(head: Head, private: bytes) -> bytes:
    """Return the note of `head`, signed under the log's own name (its origin). Raises `ValueError` for an unusable name."""
    if not _KEY_NAME.fullmatch(head.origin):
        raise ValueError("an origin has no white space and no plus sign")
    text = f"{head.origin}\n{head.size}\n{base64.b64encode(head.root).decode()}\n".encode()
    value = Ed25519PrivateKey.from_private_bytes(private).sign(text)
    blob = base64.b64encode(key_id(head.origin, public_key(private)) + value).decode()
    return text + f"\n— {head.origin} {blob}\n".encode()


def split_note(note: bytes) -> tuple[bytes, tuple[NoteSignature, ...]]:
    """Return the signed text of any signed-note (with its last newline) and its signature lines.

    Raises `IntegrityError` E_CHECKPOINT.
    """
    text, separator, tail = note.rpartition(b"\n\n")
    if not separator or len(note) > _MAX_NOTE_BYTES or not tail.endswith(b"\n"):
        raise _malformed("no signature block")
    try:
        lines = tail.decode("utf-8").split("\n")[:-1]
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("not UTF-8") from None
    return text + b"\n", tuple(_signature(line) for line in lines)


def _signature(line: str) -> NoteSignature:
    match = _SIGNATURE.fullmatch(line)
    if match is None:
        raise _malformed("signature line")
    blob = _base64(match[2], "signature")
    if len(blob) < 5:
        raise _malformed("signature length")
    return NoteSignature(name=match[1], key_id=blob[:4], value=blob[4:])


def parse(note: bytes) -> Note:
    """Read a checkpoint strictly; extension lines after the root are allowed and signed over.

    Raises `IntegrityError` E_CHECKPOINT.
    """
    text, signatures = split_note(note)
    lines = text.decode("utf-8").split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise _malformed("body")
    head_root = _base64(lines[2], "root")
    if len(head_root) != hashlib.sha256().digest_size:
        raise _malformed("root length")
    return Note(head=Head(origin=lines[0], size=int(lines[1]), root=head_root), text=text, signatures=signatures)


def _base64(text: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _malformed(where) from None
    if base64.b64encode(data).decode() != text:  # the same bytes have one spelling only
        raise _malformed(where)
    return data


def _malformed(where: str) -> IntegrityError:
    return IntegrityError(f"checkpoint: {where} is malformed", code="E_CHECKPOINT", hint="the file was changed or is none")


def verify(text: bytes, signatures: Sequence[NoteSignature], name: str, public: bytes) -> bool:
    """True when one of `signatures` is by `name` with the key `public`, over `text`.

    Lines of unknown signers are passed over; a wrong signature under the known key is not made good by another line.
    """
    wanted = key_id(name, public)
    ours = [s for s in signatures if s.name == name and s.key_id == wanted]
    return bool(ours) and all(is_signed(text, s.value, public) for s in ours)


def is_signed(text: bytes, value: bytes, public: bytes) -> bool:
    """True when `value` is the Ed25519 signature of `text` under `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(value, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def write_trust_file(
    path: Path,
    *,
    origin: str,
    key: bytes,
    clock: Callable[[], datetime],
    anchors: Sequence[tuple[int, bytes]] = (),
    policy_digests: Sequence[str] = (),
) -> None:
    """Write what a reviewer must already hold to check a bundle; a file that is there is kept, for it may hold anchors.

    `key` is the log's private key; only its public half is written. `anchors` are heads (size, root) seen outside,
    `policy_digests` the gate policies that may have decided. Give it to the reviewer: beside its log it proves little.
    """
    if path.exists():
        return
    trust = {
        "origin": origin,
        "log_keys": [{"key": public_key(key).hex(), "valid_from": timestamp(clock()), "valid_until": None}],
        "people": [],
        "witnesses": [],
        "policy_digests": list(policy_digests),
        "anchors": [{"size": size, "root": base64.b64encode(head_root).decode()} for size, head_root in anchors],
    }
    durable.write_file(path, canonical_json(trust) + b"\n")


def load_trust(path: Path) -> Trust:
    """Read a trust file strictly.

    Raises `IntegrityError` E_BUNDLE when it cannot be read, has other keys, or asks for people or witnesses to be
    checked: this version knows neither, and passing over them would promise more than was done.
    """
    try:
        data = json.loads(path.read_bytes())
        if set(data) != {"origin", "log_keys", "people", "witnesses", "policy_digests", "anchors"}:
            raise ValueError
        if data["people"] or data["witnesses"] or not data["log_keys"] or not isinstance(data["origin"], str):
            raise ValueError
        return Trust(
            origin=data["origin"],
            log_keys=tuple(_key_of(entry) for entry in data["log_keys"]),
            anchors=tuple(_anchor_of(entry) for entry in data["anchors"]),
            policy_digests=tuple(str(digest) for digest in data["policy_digests"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        raise IntegrityError(
            f"{path.name}: not a trust file that can be used",
            code="E_BUNDLE",
            hint="use the file that was handed over with the log, without people and witnesses",
        ) from None


def _anchor_of(entry: Mapping[str, Any]) -> tuple[int, bytes]:
    head_root = base64.b64decode(entry["root"], validate=True)
    if type(entry["size"]) is not int or entry["size"] < 0 or len(head_root) != hashlib.sha256().digest_size:
        raise ValueError
    return entry["size"], head_root


def _key_of(entry: Mapping[str, str | None]) -> LogKey:
    public = bytes.fromhex(str(entry["key"]))
    if len(public) != _KEY_BYTES or set(entry) != {"key", "valid_from", "valid_until"}:
        raise ValueError
    return LogKey(public=public, valid_from=str(entry["valid_from"]), valid_until=entry["valid_until"])
