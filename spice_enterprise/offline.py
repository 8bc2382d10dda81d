"""Nothing leaves: telemetry off before any import, and a count of every attempt to reach outside.

In: the process environment.
Out: the switches set; a guard that counts (and, offline, refuses) connections and look-ups that are not loopback.
Refuses: a switch that the user's environment forces to "on" while offline.
Not here: the parser child's isolation (`corpus/sandbox.py`), which has no network at all.

The switches are exact on purpose: MLflow hears `true` but not `1`, vLLM only `1`, Ray only `0`.
"""

import ipaddress
import logging
import os
import socket
import sys
import threading
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from spice_enterprise.errors import ConfigError

SWITCHES: Final[dict[str, str]] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_PLUGINS": "",
    "VLLM_USE_MODELSCOPE": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS": "",
    "PRESIDIO_DEVICE": "cpu",
    "SCARF_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "true",
    "UNSTRUCTURED_DISABLE_NOTICE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "DISABLE_MLFLOW_INTEGRATION": "TRUE",
    "WANDB_MODE": "disabled",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set always, before any library can read them."""

OFFLINE_SWITCHES: Final[dict[str, str]] = {"HF_HUB_OFFLINE": "1"}
"""Set unless the config says `offline: false`."""


HUSHED: Final = ("bitsandbytes.backends.cpu.ops",)
"""Loggers that advise to fetch code from a hub."""


def switch_off_telemetry(environ: MutableMapping[str, str] | None = None) -> None:
    """Set every switch. Idempotent; called by `import spice_enterprise` before anything else is imported."""
    target = os.environ if environ is None else environ
    target.update(SWITCHES)
    for name, value in OFFLINE_SWITCHES.items():
        target.setdefault(name, value)
    for name in HUSHED:
        logging.getLogger(name).setLevel(logging.ERROR)


def allow_hub(environ: MutableMapping[str, str] | None = None) -> None:
    """Let the model hub be asked: only for `offline: false`, and only before transformers is imported."""
    target = os.environ if environ is None else environ
    target["HF_HUB_OFFLINE"] = "0"


def check_switches(environ: MutableMapping[str, str] | None = None) -> None:
    """Raise `ConfigError` when a switch no longer has its value: something turned telemetry back on."""
    target = os.environ if environ is None else environ
    changed = sorted(name for name, value in SWITCHES.items() if target.get(name) != value)
    if changed:
        raise ConfigError(
            f"telemetry switches were changed after import: {', '.join(changed)}",
            code="E_TELEMETRY",
            hint="do not set them in the environment of a job",
        )


def is_local(host: object) -> bool:
    """True for loopback addresses, `localhost` and unix-socket paths."""
    if host is None or host == "":
        return True
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return False
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


class OutsideConnectionError(ConnectionRefusedError):
    """Raised inside a library that tried to reach outside while the job is offline."""


class ConnectionGuard:
    """Counts attempts to reach anything but loopback, through Python's audit events.

    An audit hook cannot be removed, so there is one per process; `watching()` says whether it counts now.
    Attempts of child processes are not seen here: the parser child runs without network instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_installed = False
        self._is_watching = False
        self._is_refusing = False
        self._attempts = 0
        self._names: tuple[str, ...] = ()
        self._allowed: frozenset[str] = frozenset()

    def start(self, *, is_offline: bool, allowed_hosts: Sequence[str] = ()) -> None:
        """Begin counting from zero; while offline, also refuse.

        `allowed_hosts` are the ones that the config names and the policy allows (an MLflow server, a document store):
        reaching them is not an attempt. A name with a leading dot stands for every host of that domain.
        """
        allowed = frozenset(a for host in allowed_hosts if not host.startswith(".") for a in _addresses_of(host))
        with self._lock:
            self._names = tuple(allowed_hosts)
            self._allowed = allowed
            if not self._is_installed:
                sys.addaudithook(self._hook)
                self._is_installed = True
            self._attempts = 0
            self._is_watching = True
            self._is_refusing = is_offline

    def stop(self) -> int:
        """Stop counting and return the number of attempts."""
        with self._lock:
            self._is_watching = False
            return self._attempts

    @property
    def attempts(self) -> int:
        """Attempts seen since `start`."""
        return self._attempts

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._is_watching or not event.startswith("socket."):
            return
        host = _target_host(event, args)
        if is_local(host) or host in self._allowed or self._is_named(host):
            return
        with self._lock:
            self._attempts += 1
        if self._is_refusing:
            raise OutsideConnectionError("offline: a connection to the outside was refused")

    def _is_named(self, host: object) -> bool:
        """True for a name that is allowed. Its addresses are from now on, since the connection itself names only them."""
        if not isinstance(host, str) or not any(
            host == name or (name[:1] == "." and host.endswith(name)) for name in self._names
        ):
            return False
        with self._lock:
            self._allowed |= {host}  # before it is looked up, or the look-up would come back here
        addresses = _addresses_of(host)
        with self._lock:
            self._allowed |= addresses
        return True


def _matches(host: str, name: str) -> bool:
    return host.endswith(name) if name.startswith(".") else host == name


def _addresses_of(host: str | None) -> frozenset[str]:
    """Return a host's name and its addresses; nothing for None, the name alone when it does not resolve."""
    if not host:
        return frozenset()
    try:
        return frozenset({host, *(str(found[4][0]) for found in socket.getaddrinfo(host, None))})
    except OSError:
        return frozenset({host})


def _target_host(event: str, args: tuple[Any, ...]) -> object:
    """Return the host an audit event wants to reach; None when the event reaches nowhere."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1] if len(args) > 1 else None
        return address[0] if isinstance(address, tuple) and address else address if isinstance(address, str) else None
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return args[0] if args else None
    return None


GUARD: Final = ConnectionGuard()
"""The process's one guard."""
