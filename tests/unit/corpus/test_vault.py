"""The vault: nothing readable on disk, nothing read unrecorded, nothing moved or changed unnoticed, nothing half done."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from spice_enterprise.corpus.keys import LocalKey
from spice_enterprise.corpus.vault import Vault, VaultReading, open_vault
from spice_enterprise.errors import CorpusError, IntegrityError, SpiceError, StoreError

OLD, NEW = LocalKey(b"o" * 32), LocalKey(b"n" * 32)
P1, P2 = "[PERSON_abcdefghijklmnop]", "[EMAIL_abcdefghijklmnop]"
VALUES = [(P1, "Quorlinde Vexmarsh"), (P1, "Vexmarsh"), (P2, "quorlinde@vexmarsh.example")]


def silent(_: VaultReading) -> None:
    """Record nothing."""


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "vault" / "originals.db"


@pytest.fixture
def vault(path):
    with open_vault(path, OLD, tenant="t", may_create=True) as made:
        yield made


def get(vault: Vault, document_id="d1", placeholder=P1):
    return vault.read(document_id, placeholder, reason="case 7", record=silent)


def on_disk(path: Path) -> bytes:
    return b"".join(item.read_bytes() for item in sorted(path.parent.iterdir()))


def changed(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as database:
        assert database.execute(statement, values).rowcount
    database.close()


def refusal(kind, code, call, *args, **kwargs) -> SpiceError:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    return caught.value


def test_values_come_back_in_every_spelling_and_are_never_readable_on_disk(path, vault):
    assert vault.put("d1", VALUES) == 3
    assert vault.put("d2", VALUES[:1]) == 1
    assert get(vault) == ("Quorlinde Vexmarsh", "Vexmarsh")
    assert get(vault, placeholder=P2) == ("quorlinde@vexmarsh.example",)
    data = on_disk(path).lower()
    for value in ("quorlinde", "vexmarsh", "example"):
        for encoding in ("utf-8", "utf-16-le"):
            assert value.encode(encoding) not in data
    assert P1.encode().lower() in data, "the search above reads the right files"
    assert {item.stat().st_mode & 0o777 for item in path.parent.iterdir()} == {0o600}
    assert path.with_name(path.name + "-wal").exists()


def test_putting_again_changes_nothing(path, vault):
    vault.put("d1", VALUES)
    assert vault.put("d1", VALUES + VALUES) == 0
    assert get(vault) == ("Quorlinde Vexmarsh", "Vexmarsh")
    assert vault.put("d1", {P2: "second"}) == 1
    assert vault.put("d1", {P2: "second"}) == 0


def test_nothing_is_read_before_the_reading_is_recorded(vault):
    vault.put("d1", VALUES)
    heard = []
    vault.read("d1", P1, reason="case 7", record=heard.append)
    assert heard == [VaultReading(document_id="d1", placeholder=P1, reason="case 7")]

    def full(_):
        raise StoreError("no disk space left", code="E_DISK_FULL")

    refusal(StoreError, "E_DISK_FULL", vault.read, "d1", P1, reason="case 7", record=full)
    refusal(CorpusError, "E_NOT_IN_VAULT", vault.read, "d1", P1, reason=" ", record=heard.append)
    refusal(CorpusError, "E_NOT_IN_VAULT", vault.read, "d1", "[X_Y]", reason="case 7", record=heard.append)
    assert len(heard) == 1


def test_hits_count_entries_without_opening_any(vault):
    vault.put("d1", VALUES)
    vault.put("d2", VALUES)
    assert vault.hits("QUORLINDE  vexmarsh") == 2
    assert vault.hits("Quorlinde") == 0
    assert vault.hits("") == 0


def test_lookups_of_two_vaults_cannot_be_compared(tmp_path):
    found = []
    for name in ("a", "b"):
        with open_vault(tmp_path / name, OLD, tenant="t", may_create=True) as made:
            made.put("d1", VALUES)
            found.append(sqlite3.connect(tmp_path / name).execute("SELECT lookup FROM entries").fetchall())
    assert not set(found[0]) & set(found[1])


def test_forgetting_destroys_key_and_rows_and_leaves_a_tombstone(path, vault):
    vault.put("d1", VALUES)
    vault.put("d2", VALUES)
    (wrapped,) = vault._database.execute("SELECT wrapped_key FROM documents WHERE document_id = 'd1'").fetchone()
    sealed = [row[0] for row in vault._database.execute("SELECT sealed FROM entries WHERE document_id = 'd1'")]
    assert wrapped in on_disk(path)
    assert vault.forget("d1") == 3
    data = on_disk(path)
    assert not [1 for gone in (wrapped, *sealed) if gone in data]
    assert vault.state_of("d1") == "forgotten"
    assert "forgotten" in refusal(CorpusError, "E_NOT_IN_VAULT", get, vault).message
    assert vault.put("d1", VALUES) == 0
    assert vault.hits("Vexmarsh") == 1
    assert get(vault, "d2") == ("Quorlinde Vexmarsh", "Vexmarsh")
    assert (vault.forget("d1"), vault.forget("never"), vault.state_of("never")) == (3, 0, "unknown")


def test_rotation_wraps_keys_again_and_touches_no_value(path, vault):
    vault.put("d1", VALUES)
    vault.put("gone", VALUES)
    vault.forget("gone")
    sealed = vault._database.execute("SELECT sealed FROM entries").fetchall()
    assert vault.rotate(NEW) == 1
    assert vault._database.execute("SELECT sealed FROM entries").fetchall() == sealed
    assert get(vault) == ("Quorlinde Vexmarsh", "Vexmarsh")
    vault.close()
    refusal(CorpusError, "E_VAULT_KEY", open_vault, path, OLD, tenant="t")
    with open_vault(path, NEW, tenant="t") as again:
        assert get(again) == ("Quorlinde Vexmarsh", "Vexmarsh")
        assert again.hits("vexmarsh") == 1


def test_a_vault_that_was_rotated_elsewhere_takes_nothing_under_the_old_key(path, vault):
    vault.put("d1", VALUES)
    with open_vault(path, OLD, tenant="t") as other:
        other.rotate(NEW)
    for call in (lambda: vault.put("d2", VALUES), lambda: get(vault), lambda: vault.forget("d1"), lambda: vault.rotate(OLD)):
        refusal(CorpusError, "E_VAULT_KEY", call)
    with open_vault(path, NEW, tenant="t") as again:
        assert again.state_of("d2") == "unknown"
        assert get(again) == ("Quorlinde Vexmarsh", "Vexmarsh")


def test_destroying_leaves_no_file(path, vault):
    vault.put("d1", VALUES)
    vault.destroy()
    assert list(path.parent.iterdir()) == []
    refusal(CorpusError, "E_NOT_IN_VAULT", open_vault, path, OLD, tenant="t")


def test_another_key_or_tenant_opens_nothing(path, vault):
    vault.put("d1", VALUES)
    refusal(CorpusError, "E_VAULT_KEY", open_vault, path, NEW, tenant="t", may_create=True)
    refusal(IntegrityError, "E_VAULT", open_vault, path, OLD, tenant="u")
    assert get(vault) == ("Quorlinde Vexmarsh", "Vexmarsh")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET sealed = substr(sealed, 1, length(sealed) - 1) || x'00' WHERE document_id = 'd1'",
        "UPDATE entries SET nonce = x'000000000000000000000000' WHERE document_id = 'd1'",
        "UPDATE entries SET nonce = x'' WHERE document_id = 'd1'",
        "UPDATE entries SET lookup = x'00' WHERE document_id = 'd1'",
        "UPDATE entries SET document_id = 'd3' WHERE document_id = 'd1'",
        "UPDATE entries SET placeholder = CASE number WHEN 1 THEN '[A_B]' ELSE placeholder END",
        "UPDATE documents SET wrapped_key = (SELECT wrapped_key FROM documents WHERE document_id = 'd2')"
        " WHERE document_id = 'd1'",
        "UPDATE documents SET document_id = CASE document_id WHEN 'd1' THEN 'd9' ELSE document_id END",
        "UPDATE documents SET wrapped_key = x'00' WHERE document_id = 'd1'",
    ],
)
def test_changed_and_moved_rows_are_refused(path, vault, statement):
    vault.put("d1", VALUES[1:2])
    vault.put("d2", VALUES[1:2])
    vault.put("d3", VALUES[2:])
    changed(path, statement)
    results = []
    for document_id, placeholder in (("d1", P1), ("d1", "[A_B]"), ("d3", P1), ("d9", P1)):
        try:
            results.append(get(vault, document_id, placeholder))
        except SpiceError as error:
            results.append(error.code)
    assert set(results) <= {"E_VAULT", "E_NOT_IN_VAULT"}
    assert ("E_VAULT" in results) != ("document_id = CASE" in statement)
    assert get(vault, "d2") == ("Vexmarsh",)


def test_a_whole_document_cannot_be_passed_off_as_another(path, vault):
    vault.put("d1", VALUES)
    changed(path, "UPDATE documents SET document_id = 'd9'")
    changed(path, "UPDATE entries SET document_id = 'd9'")
    refusal(IntegrityError, "E_VAULT", get, vault, "d9")


@pytest.mark.parametrize("size", [0, 10, 100, 4096, 5000])
def test_truncated_files_are_refused(path, vault, size):
    vault.put("d1", VALUES)
    vault._empty_log()
    vault.close()
    os.truncate(path, size)

    def use():
        with open_vault(path, OLD, tenant="t", may_create=True) as damaged:
            get(damaged)

    refusal(IntegrityError, "E_VAULT", use)


def test_files_that_others_can_read_and_links_are_refused(path, vault, tmp_path):
    path.chmod(0o640)
    refusal(IntegrityError, "E_VAULT", open_vault, path, OLD, tenant="t")
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    refusal(IntegrityError, "E_VAULT", open_vault, tmp_path / "link", OLD, tenant="t")


class Service:
    """A key service that can go away."""

    def __init__(self):
        self.is_away = False

    def wrap(self, dek, aad):
        if self.is_away:
            raise ConnectionError("secret address")
        return OLD.wrap(dek, aad)

    def unwrap(self, wrapped, aad):
        if self.is_away:
            raise ConnectionError("secret address")
        return OLD.unwrap(wrapped, aad)


def test_a_key_service_that_goes_away_loses_nothing_and_says_no_more_than_its_kind(path):
    service = Service()
    with open_vault(path, service, tenant="t", may_create=True) as vault:
        vault.put("d1", VALUES)
        service.is_away = True
        for call in (lambda: vault.put("d2", VALUES), lambda: get(vault), lambda: vault.rotate(service)):
            error = refusal(StoreError, "E_SERVER_AWAY", call)
            assert "secret address" not in error.explain()
            assert error.exit_status() == 75
        service.is_away = False
        assert vault.state_of("d2") == "unknown"
        assert get(vault) == ("Quorlinde Vexmarsh", "Vexmarsh")


def test_a_vault_in_use_is_waited_for_not_broken(path, vault, monkeypatch):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    vault._database.execute("PRAGMA busy_timeout=10")
    assert refusal(StoreError, "E_LOCKED", vault.put, "d1", VALUES).exit_status() == 75
    other.execute("ROLLBACK")
    other.close()
    assert vault.put("d1", VALUES) == 3


# --- crashes ----------------------------------------------------------------------------------------------------------


def facts_of(path: Path, keys: LocalKey) -> object:
    """Return what can be known of a vault from outside, or None when that key does not open it."""
    try:
        with open_vault(path, keys, tenant="t") as vault:
            read = []
            for document_id in ("d1", "d2"):
                for placeholder in (P1, P2):
                    try:
                        read.append(get(vault, document_id, placeholder))
                    except CorpusError:
                        read.append(None)
            return read, [vault.state_of(d) for d in ("d1", "d2")], vault.hits("vexmarsh")
    except SpiceError as error:
        return error.code


def killed_at(path: Path, statement: int, act) -> bool:
    """Do `act` in a child that dies before its n-th statement; True when it got to the end instead."""
    child = os.fork()
    if child == 0:
        vault = open_vault(path, OLD, tenant="t")
        left = [statement]

        def count(_):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

        vault._database.set_trace_callback(count)
        act(vault)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "act",
    [lambda v: v.put("d2", VALUES), lambda v: v.forget("d1"), lambda v: v.rotate(NEW), lambda v: v.destroy()],
    ids=["put", "forget", "rotate", "destroy"],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_between_any_two_statements_leaves_the_old_or_the_new_state(tmp_path, act):
    start = tmp_path / "start" / "v.db"
    with open_vault(start, OLD, tenant="t", may_create=True) as vault:
        vault.put("d1", VALUES)

    def copy(name: str) -> Path:
        shutil.copytree(start.parent, tmp_path / name)
        return tmp_path / name / "v.db"

    done = copy("done")
    with open_vault(done, OLD, tenant="t") as vault:
        act(vault)
    states = {str([facts_of(start, OLD), facts_of(start, NEW)]), str([facts_of(done, OLD), facts_of(done, NEW)])}
    states |= {str(["E_VAULT", "E_VAULT"])} if "E_NOT_IN_VAULT" in str(states) else set()  # destroyed, files not yet removed
    assert len(states) >= 2
    for statement in range(1, 60):
        victim = copy(f"k{statement}")
        is_done = killed_at(victim, statement, act)
        assert str([facts_of(victim, OLD), facts_of(victim, NEW)]) in states, statement
        if is_done:
            break
    assert statement > 4
    assert is_done
