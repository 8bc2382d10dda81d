"""What every test gets: no network, a clean environment and a home of its own."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_socket import disable_socket, enable_socket

import spice_enterprise  # noqa: F401 - switches telemetry off before any test imports a library

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files from what the code does now")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def no_network() -> object:
    """Sockets to anything but this machine fail."""
    disable_socket(allow_unix_socket=True)
    yield None
    enable_socket()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that no test reads or writes the user's."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "SPICE_"))]:
        monkeypatch.delenv(name)
    return home


def cpu_s(work: Callable[[str], object], text: str) -> float:
    """Return the least CPU seconds of two goes, of this thread alone and without the collector: load must not decide."""

    def once() -> float:
        begun = time.thread_time()
        work(text)
        return time.thread_time() - begun

    was_collecting = gc.isenabled()
    gc.disable()
    try:
        return min(once(), once())
    finally:
        if was_collecting:
            gc.enable()


@pytest.fixture(scope="session")
def is_linear() -> Callable[[Callable[[str], object], str], bool]:
    """Tell whether work on a whole text takes about four times the work on its first quarter (sixteen when quadratic)."""

    def check(work: Callable[[str], object], text: str) -> bool:
        return cpu_s(work, text) < 10 * max(cpu_s(work, text[: len(text) // 4]), 0.02)

    return check


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Development data, where it is present."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no development data here")
    return SHARED_DATA
