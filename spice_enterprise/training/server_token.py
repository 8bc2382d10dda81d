"""The secret that a job shows its sampler server: one line of hex in a file only its owner can read.

In: a job's settings, or the path of the file.
Out: the token; a new file when the server finds none.
Refuses: a file that others can read, or that holds something else.
Not here: comparing it (`sampler_server.py`).
"""

import re
import secrets
from pathlib import Path
from typing import Final

from spice_enterprise import durable
from spice_enterprise.config import JobConfig
from spice_enterprise.errors import SamplerError

TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(rf"[0-9a-f]{{{2 * TOKEN_BYTES}}}\n?")


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


def _refusal(path: Path, what: str, hint: str) -> SamplerError:
    return SamplerError(f"token of the sampler server, {path.name}: {what}", code="E_SAMPLER_TOKEN", hint=hint)
