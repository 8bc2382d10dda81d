"""The master key of a vault: where it is found, and how it wraps the keys of documents.

In: an object that speaks to a key service, or a name in the operating system's key ring, a key file, an environment value.
Out: a `KeyProvider`; the first of these that holds a key wins, in this order.
Refuses: key rings that keep passwords in the clear or nowhere; key files that others can read, links, other owners; anything
that is no key of 32 bytes. No message names a key.
Not here: what is encrypted (`vault.py`), the environment itself (`config.py`).
"""

import base64
import binascii
import logging
import os
import secrets
import stat
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from spice_enterprise import durable
from spice_enterprise.errors import CorpusError, MissingExtraError
from spice_enterprise.protocols import KeyProvider

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SERVICE: Final = "spice-enterprise vault"
"""Under which the operating system's key ring lists our keys."""
_SAFE_RINGS: Final = tuple(f"keyring.backends.{name}" for name in ("SecretService", "kwallet", "libsecret", "macOS", "Windows"))
_CHAIN: Final = "keyring.backends.chainer"
_LOG: Final = logging.getLogger(__name__)


class LocalKey:
    """A master key of 32 bytes in this process."""

    def __init__(self, key: bytes) -> None:
        """Take the key. Raises `CorpusError` E_VAULT_KEY when it has another length."""
        if len(key) != KEY_BYTES:
            raise _unusable("the master key has another length", f"a master key is {KEY_BYTES} random bytes")
        self._aead = AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"spice vault wrap").derive(key))

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return `dek` under a random nonce, which comes first."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, dek, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return what was wrapped. Raises `CorpusError` E_VAULT_KEY."""
        try:
            return self._aead.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
        except (InvalidTag, ValueError):
            raise _unusable("the master key is not the one that was used", "use the key that the vault was made with") from None


def master_key(
    name: str, *, file: Path, kms: KeyProvider | None = None, environment: str | None = None, may_create: bool = False
) -> KeyProvider:
    """Return the first key there is: key service, key ring, file, environment.

    Args:
        name: Of the key in the key ring; one for each workspace.
        file: The key file, mode 0600.
        kms: An object of the company's own; nothing else is looked at when there is one.
        environment: A key as 64 hex digits or base64, for development; its use is logged as a warning.
        may_create: Make a key where there is none, in the key ring if it is fit, else as the file. Only for a new vault.

    Raises:
        CorpusError: `E_VAULT_KEY` when there is none, or the one found may not be used.
    """
    if kms is not None:
        return kms
    ring = _usable_ring()
    kept = ring.get_password(SERVICE, name) if ring is not None else None
    if kept is not None:
        return LocalKey(_decoded(kept, "in the key ring"))
    if file.is_symlink() or file.exists():
        return LocalKey(_read(file))
    if environment is not None:
        _LOG.warning("the vault's master key comes from the environment: for development only")
        return LocalKey(_decoded(environment, "in the environment"))
    if not may_create:
        raise _unusable(
            "there is no master key", "restore the key ring entry or the key file; without it originals cannot be read"
        )
    return _new_in_ring(ring, name) if ring is not None else create_key_file(file)


def key_from_ring(name: str, *, may_create: bool = False) -> KeyProvider:
    """Return a key of the operating system's key ring and of nowhere else.

    Raises:
        MissingExtraError: `keyring` is not installed.
        CorpusError: `E_VAULT_KEY` when the key ring is not fit, or has no such key.
    """
    try:
        import_module("keyring")
    except ImportError:
        raise MissingExtraError(
            "keyring is not installed", code="E_MISSING_EXTRA", hint="pip install 'spice-enterprise[keyring]'"
        ) from None
    ring = _usable_ring()
    if ring is None:
        raise _unusable(
            "the key ring of this system keeps passwords in the clear, or none at all",
            "unlock a real key ring (Secret Service, KWallet, macOS, Windows), or use a key file",
        )
    kept = ring.get_password(SERVICE, name)
    if kept is not None:
        return LocalKey(_decoded(kept, "in the key ring"))
    if not may_create:
        raise _unusable("the key ring has no such key", "check the workspace's name")
    return _new_in_ring(ring, name)


def create_key_file(path: Path) -> KeyProvider:
    """Make a key file, or use the one that somebody else made meanwhile. Raises `CorpusError` E_VAULT_KEY, `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    durable.write_file(staged, secrets.token_bytes(KEY_BYTES), mode=durable.PRIVATE)
    try:
        # a link is made only where nothing is: of two processes one wins, and neither overwrites the other's key
        os.link(staged, path)
    except FileExistsError:
        pass
    finally:
        staged.unlink()
    durable.fsync_directory(path.parent)
    return LocalKey(_read(path))


def _usable_ring() -> Any | None:
    """Return the system's key ring, or None when there is none that keeps secrets secret."""
    try:
        ring = import_module("keyring").get_keyring()
    except ImportError:
        return None
    members = list(ring.backends) if type(ring).__module__ == _CHAIN else [ring]
    is_fit = bool(members) and all(type(member).__module__.startswith(_SAFE_RINGS) for member in members)
    return ring if is_fit else None


def _new_in_ring(ring: Any, name: str) -> KeyProvider:
    ring.set_password(SERVICE, name, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())
    # read back: what was not kept must not be used
    return LocalKey(_decoded(ring.get_password(SERVICE, name) or "", "in the key ring"))


def _read(path: Path) -> bytes:
    """Return the content of a key file that only its owner can read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(
            f"the key file cannot be opened ({type(error).__name__})", "it must be a plain file of your own, not a link"
        ) from None
    with os.fdopen(handle, "rb") as opened:
        facts = os.fstat(opened.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise _unusable("the key file is not a plain file of your own", "keep it where only you can write")
        if facts.st_mode & 0o077:
            raise _unusable("others can read the key file", "chmod 600, and rotate the key: it may be known")
        return opened.read(KEY_BYTES + 1)


def _decoded(text: str, where: str) -> bytes:
    """Return a key written as 64 hex digits or as base64."""
    plain = text.strip()
    try:
        return bytes.fromhex(plain) if len(plain) == 2 * KEY_BYTES else base64.b64decode(plain, validate=True)
    except (ValueError, binascii.Error):
        raise _unusable(f"what is kept {where} is no key", f"{KEY_BYTES} bytes as hex digits or base64") from None


def _unusable(message: str, hint: str) -> CorpusError:
    return CorpusError(message, code="E_VAULT_KEY", hint=hint)
