"""The secret that a job shares with its sampler server, and how each shows the other that it knows it.

In: a job's settings, or the path of the file, one line of hex that only its owner can read; what a proof is about.
Out: the token; a new file when the server finds none; proofs.
Refuses: a file that others can read, or that holds something else.
Not here: sending proofs (`server_line.py`, `loopback_http.py`).

The token never travels. On each connection the job sends a random nonce and nothing else; the server answers with one of its
own and proof("server", address, both nonces); only then comes the job's one request, under proof("client", address, both
nonces, method, path). Nonces are new each time, so nothing can be replayed; the address is the one each end sees, so
another port of the same server cannot be put in between.
"""

import hmac
import re
import secrets
from pathlib import Path
from typing import Final

from spice_enterprise import durable
from spice_enterprise.config import JobConfig
from spice_enterprise.errors import SamplerError

TOKEN_BYTES: Final = 32
NONCE_BYTES: Final = 32
_TOKEN: Final = re.compile(rf"[0-9a-f]{{{2 * TOKEN_BYTES}}}\n?")
_NONCE: Final = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")


def token_path(config: JobConfig) -> Path:
    """Return where the token of a job's server stands."""
    setting = config.sampler.token_file
    return Path(setting) if setting is not None else config.workspace_dir / "keys" / "sampler.token"


def read_token(path: Path) -> str:
    """Return the token in `path`. Raises `SamplerError` (E_SAMPLER_TOKEN) without showing it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise _refusal(path, "no such file", "start `spice-enterprise serve-sampler` first, with the same workspace") from None
    except (OSError, ValueError):
        raise _refusal(path, "cannot be read", "check the owner of the file") from None
    if mode & 0o077:
        raise _refusal(path, "others can read it", "delete it and start the server again; it makes a new one")
    if not _TOKEN.fullmatch(text):
        raise _refusal(path, "not a token", "delete it and start the server again; it makes a new one")
    return text.strip()


def load_or_create_token(path: Path) -> str:
    """Return the token in `path`, writing a random one (mode 0600) when there is no file. Raises like `read_token`."""
    if not path.exists():
        durable.write_file(path, secrets.token_hex(TOKEN_BYTES).encode() + b"\n", mode=durable.PRIVATE)
    return read_token(path)


def new_nonce() -> str:
    """Return random hex that nobody has seen before."""
    return secrets.token_hex(NONCE_BYTES)


def is_nonce(text: str) -> bool:
    """True for what `new_nonce` may have made."""
    return _NONCE.fullmatch(text) is not None


def proof(token: str, *about: str) -> str:
    """Return what only somebody who knows `token` can say `about` these lines: their HMAC-SHA256, in hex."""
    return hmac.new(token.encode(), "\n".join(about).encode("utf-8", "surrogateescape"), "sha256").hexdigest()


def is_proof(given: str, token: str, *about: str) -> bool:
    """True when `given` is the proof, found out in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), proof(token, *about).encode())


def _refusal(path: Path, what: str, hint: str) -> SamplerError:
    return SamplerError(f"token of the sampler server, {path.name}: {what}", code="E_SAMPLER_TOKEN", hint=hint)
