"""Nothing leaves: switches before imports, and a guard that counts and refuses."""

import os
import socket
import subprocess
import sys

import pytest
from pytest_socket import enable_socket

from spice_enterprise import offline
from spice_enterprise.errors import ConfigError

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "vllm", "mlflow", "ray", "presidio_analyzer", "spacy", "typer", "rich")


def test_importing_the_package_loads_no_heavy_library_and_sets_every_switch() -> None:
    code = (
        "import os, sys, spice_enterprise; from spice_enterprise.offline import SWITCHES; "
        f"print([m for m in {HEAVY!r} if m in sys.modules], all(os.environ[k] == v for k, v in SWITCHES.items()))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in offline.SWITCHES}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "false"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "[] True"


def test_the_exact_values_that_libraries_listen_to() -> None:
    assert offline.SWITCHES["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert offline.SWITCHES["VLLM_DO_NOT_TRACK"] == "1"
    assert offline.SWITCHES["RAY_USAGE_STATS_ENABLED"] == "0"
    assert offline.SWITCHES["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] == ""


def test_a_switch_turned_back_on_is_refused() -> None:
    environment = {**offline.SWITCHES, "DO_NOT_TRACK": "0"}
    with pytest.raises(ConfigError, match="DO_NOT_TRACK"):
        offline.check_switches(environment)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "/run/x.sock", None, ""])
def test_loopback_is_local(host: object) -> None:
    assert offline.is_local(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "10.0.0.1", "example.com", "::2", b"example.com", "127.0.0.1.example.com"])
def test_anything_else_is_not(host: object) -> None:
    assert not offline.is_local(host)


def test_the_guard_counts_and_refuses_an_attempt() -> None:
    enable_socket()
    guard = offline.GUARD
    guard.start(is_offline=True)
    try:
        with pytest.raises(offline.OutsideConnectionError), socket.socket() as sock:
            sock.connect(("192.0.2.1", 80))
        with pytest.raises(offline.OutsideConnectionError):
            socket.getaddrinfo("spice.invalid", 80)
        with socket.socket() as sock, pytest.raises(OSError, match="refused"):
            sock.connect(("127.0.0.1", 1))
    finally:
        attempts = guard.stop()
    assert attempts == 2


def connect(host: str) -> None:
    with socket.socket() as sock:
        sock.settimeout(0.01)
        sock.connect((host, 80))


def test_a_guard_that_is_not_watching_counts_nothing() -> None:
    enable_socket()
    offline.GUARD.start(is_offline=False)
    offline.GUARD.stop()
    with pytest.raises(OSError):  # noqa: PT011 - any refusal of the machine will do
        connect("192.0.2.1")
    assert offline.GUARD.attempts == 0


def test_the_named_tracking_host_is_not_outside() -> None:
    enable_socket()
    guard = offline.ConnectionGuard()
    guard.start(is_offline=True, allowed_hosts=("192.0.2.7",))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - any refusal of the machine will do
            connect("192.0.2.7")
        assert not isinstance(caught.value, offline.OutsideConnectionError)
    finally:
        assert guard.stop() == 0


def test_an_allowed_domain_stands_for_its_hosts_and_their_addresses(monkeypatch) -> None:
    enable_socket()
    monkeypatch.setattr("spice_enterprise.offline._addresses_of", lambda host: frozenset({host, "192.0.2.9"}))
    guard = offline.ConnectionGuard()
    guard.start(is_offline=True, allowed_hosts=(".store.example",))
    try:
        sys.audit("socket.getaddrinfo", "bucket.store.example", 443)
        sys.audit("socket.connect", None, ("192.0.2.9", 443))
        assert guard.attempts == 0
        for host in ("store.example.evil", "badstore.example"):
            with pytest.raises(offline.OutsideConnectionError):
                sys.audit("socket.getaddrinfo", host, 443)
    finally:
        assert guard.stop() == 2
