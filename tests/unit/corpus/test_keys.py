"""The master key: the order in which it is looked for, and every place that is refused."""

import base64
import logging
import os
from types import SimpleNamespace

import pytest

from spice_enterprise.corpus import keys as module
from spice_enterprise.corpus.keys import LocalKey, create_key_file, key_from_ring, master_key
from spice_enterprise.errors import CorpusError, MissingExtraError

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


class Ring:
    """A key ring in memory, which claims to be one of the system's."""

    def __init__(self, kept=None):
        self.kept = dict(kept or {})

    def get_password(self, service, name):
        return self.kept.get((service, name))

    def set_password(self, service, name, password):
        self.kept[service, name] = password


Ring.__module__ = "keyring.backends.SecretService"


class Plain(Ring):
    """Keeps passwords in a file in the clear."""


Plain.__module__ = "keyrings.alt.file"


class Chain:
    def __init__(self, *backends):
        self.backends = backends

    get_password = Ring.get_password
    set_password = Ring.set_password


Chain.__module__ = "keyring.backends.chainer"


@pytest.fixture
def ring(monkeypatch):
    """Put a ring in the place of the system's; None: `keyring` is not installed."""

    def use(backend):
        def load(name):
            if backend is None or name != "keyring":
                raise ImportError
            return SimpleNamespace(get_keyring=lambda: backend)

        monkeypatch.setattr(module, "import_module", load)
        return backend

    use(None)
    return use


def is_key(provider, key):
    return provider.unwrap(LocalKey(key).wrap(b"dek", b"aad"), b"aad") == b"dek"


def kept(key, name="ws"):
    return {(module.SERVICE, name): base64.b64encode(key).decode()}


def refusal(call, *args, **kwargs):
    with pytest.raises(CorpusError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == "E_VAULT_KEY"
    assert caught.value.exit_status() == 2
    return caught.value


def test_the_order_is_service_ring_file_environment(ring, tmp_path, caplog):
    file = tmp_path / "vault.key"
    file.write_bytes(B)
    file.chmod(0o600)
    backend = ring(Ring(kept(A)))
    service = LocalKey(C)
    assert master_key("ws", file=file, kms=service, environment=C.hex()) is service
    assert is_key(master_key("ws", file=file, environment=C.hex()), A)
    backend.kept.clear()
    assert is_key(master_key("ws", file=file, environment=C.hex()), B)
    assert not caplog.records
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert is_key(master_key("ws", file=file, environment=C.hex(), may_create=True), C)
    assert "development only" in caplog.text
    assert C.hex() not in caplog.text
    assert "no master key" in refusal(master_key, "ws", file=file).message
    assert not backend.kept


def test_a_new_key_goes_into_the_ring_if_it_is_fit_else_into_a_file(ring, tmp_path):
    file = tmp_path / "deep" / "vault.key"
    backend = ring(Ring())
    made = master_key("ws", file=file, may_create=True)
    assert not file.exists()
    assert is_key(made, base64.b64decode(backend.kept[module.SERVICE, "ws"]))
    for unfit in (Plain(), Chain(Ring(), Plain()), Chain()):
        ring(unfit)
        made = master_key("ws", file=file, may_create=True)
        assert is_key(made, file.read_bytes())
        assert not getattr(unfit, "kept", {})
        assert file.stat().st_mode & 0o777 == 0o600
        assert [p.name for p in file.parent.iterdir()] == ["vault.key"]
        file.unlink()


def test_the_ring_alone_when_it_is_asked_for(ring):
    with pytest.raises(MissingExtraError, match="not installed"):
        key_from_ring("ws")
    ring(Plain(kept(A)))
    assert "in the clear" in refusal(key_from_ring, "ws").message
    ring(Chain(Ring(), Ring()))
    backend = ring(Ring())
    assert "no such key" in refusal(key_from_ring, "ws").message
    assert is_key(key_from_ring("ws", may_create=True), base64.b64decode(backend.kept[module.SERVICE, "ws"]))
    backend.kept = {(module.SERVICE, "ws"): "not a key!"}
    assert "not a key!" not in refusal(key_from_ring, "ws").explain()


def test_the_back_ends_of_the_real_library_that_keep_nothing_are_refused(monkeypatch):
    keyring = pytest.importorskip("keyring")
    from keyring.backends import fail, null

    for backend in (fail.Keyring(), null.Keyring()):
        monkeypatch.setattr(keyring, "get_keyring", lambda backend=backend: backend)
        refusal(key_from_ring, "ws", may_create=True)


def test_files_that_are_not_private_are_refused(ring, tmp_path):
    file = tmp_path / "vault.key"
    file.write_bytes(A)
    for mode in (0o640, 0o604, 0o666):
        file.chmod(mode)
        assert "others can read" in refusal(master_key, "ws", file=file).message
        refusal(master_key, "ws", file=file, may_create=True)
    file.chmod(0o600)
    assert is_key(master_key("ws", file=file), A)
    link = tmp_path / "link.key"
    link.symlink_to(file)
    refusal(master_key, "ws", file=link, environment=C.hex(), may_create=True)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    refusal(master_key, "ws", file=link, may_create=True)
    os.mkfifo(tmp_path / "pipe", 0o600)
    refusal(master_key, "ws", file=tmp_path / "pipe")
    for content in (b"", A[:31], A + b"x"):
        file.write_bytes(content)
        assert "length" in refusal(master_key, "ws", file=file).message


def test_a_key_file_is_never_overwritten(tmp_path):
    file = tmp_path / "vault.key"
    first = create_key_file(file)
    again = create_key_file(file)
    assert again.unwrap(first.wrap(b"dek", b""), b"") == b"dek"


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, base64.b64encode(A + b"x").decode(), "ключ"])
def test_what_is_no_key_is_refused_without_being_shown(ring, tmp_path, text):
    error = refusal(master_key, "ws", file=tmp_path / "none", environment=text)
    assert not text or text not in error.explain()


def test_wrapped_keys_are_bound_and_never_alike():
    key = LocalKey(A)
    one, two = key.wrap(b"dek", b"x"), key.wrap(b"dek", b"x")
    assert one != two
    assert b"dek" not in one
    for wrapped, aad, other in ((one, b"y", key), (one[:-1] + b"\x00", b"x", key), (b"", b"x", key), (one, b"x", LocalKey(B))):
        refusal(other.unwrap, wrapped, aad)
