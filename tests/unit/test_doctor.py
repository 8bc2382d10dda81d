"""The machine check: each finding can be made to say every status it has."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from spice_enterprise import doctor
from spice_enterprise.doctor import Finding, examine
from spice_enterprise.errors import ConfigError, ParseError
from spice_enterprise.records import sha256_hex


@pytest.fixture(autouse=True)
def quick_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Sandbox", lambda **_: SimpleNamespace(parse=lambda _: [], isolation="net+seccomp+user"))


def by_name(found: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_every_question_has_one_answer_and_what_is_not_ok_has_a_fix(tmp_path: Path) -> None:
    found = examine(tmp_path)
    names = [finding.name for finding in found]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "gpu", "processor", "memory", "disk", "base model", "name finder", "offline"} <= set(names)
    assert names[-1] == "offline"
    assert all(finding.status == "ok" or finding.fix for finding in found)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(name: str) -> str:
        if name in ("torch", "reportlab"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = by_name(examine(tmp_path))
    assert (found["torch"].status, found["torch"].fix) == ("missing", "pip install 'spice-enterprise[train]'")
    assert (found["reportlab"].status, found["peft"].status) == ("warn", "ok")
    assert found["offline"].status == "missing"
    assert "torch" in found["offline"].detail


def test_a_pinned_file_is_checked_by_its_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: spec)
    right = doctor._model("base model", "a_package", "weights.bin", sha256_hex(b"weights"))
    assert (right.status, right.fix) == ("ok", "")
    wrong = doctor._model("base model", "a_package", "weights.bin", sha256_hex(b"other"))
    assert (wrong.status, wrong.detail) == ("missing", "weights.bin: wrong digest")
    assert doctor._model("base model", "a_package", "gone.bin", "").detail == "a-package is not installed"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    assert doctor._model("base model", "a_package", "weights.bin", "").status == "missing"


def test_gpus_are_listed_from_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path)
    assert doctor._gpu().status == "warn"
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t A Card\nIRQ: 5\n")
    assert (doctor._gpu().status, doctor._gpu().detail) == ("ok", "A Card")


@pytest.mark.parametrize(("value", "status"), [(" 99999999 kB", "ok"), (" 1000 kB", "warn"), ("", "warn")])
def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, value: str, status: str) -> None:
    monkeypatch.setattr(doctor, "_field", lambda *_: value)
    assert doctor._memory().status == status


def test_proc_fields_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("processor\t: 0\nflags\t\t: a b\nflags\t\t: c\n")
    assert doctor._field(tmp_path / "f", ("flags",)).split() == ["a", "b"]
    assert doctor._field(tmp_path / "gone", ("flags",)) == ""


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(tmp_path) in doctor._disk(tmp_path / "not" / "yet").detail
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert doctor._disk(tmp_path).status == "warn"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor._disk(tmp_path).status == "missing"


def test_isolation_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._sandbox().status == "ok"
    monkeypatch.setattr(doctor, "Sandbox", lambda **_: SimpleNamespace(parse=lambda _: [], isolation="python"))
    assert doctor._sandbox().status == "warn"

    def refuse(_: object) -> list[object]:
        raise ParseError("no child", code="E_SANDBOX", hint="allow it")

    monkeypatch.setattr(doctor, "Sandbox", lambda **_: SimpleNamespace(parse=refuse))
    assert (doctor._sandbox().status, doctor._sandbox().detail) == ("missing", "E_SANDBOX")


def test_a_switch_turned_back_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._switches().status == "ok"

    def refuse() -> None:
        raise ConfigError("telemetry switches were changed after import: X", code="E_TELEMETRY", hint="do not")

    monkeypatch.setattr(doctor, "check_switches", refuse)
    assert (doctor._switches().status, doctor._switches().fix) == ("missing", "do not")
