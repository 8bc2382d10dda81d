"""The token file of a sampler server: made once, private, never shown."""

from pathlib import Path

import pytest

from spice_enterprise.config import build_config
from spice_enterprise.errors import SamplerError
from spice_enterprise.training.server_token import (
    is_nonce,
    is_proof,
    load_or_create_token,
    new_nonce,
    proof,
    read_token,
    token_path,
)


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sampler.token"
    token = load_or_create_token(path)
    assert (len(token), path.stat().st_mode & 0o777) == (64, 0o600)
    assert load_or_create_token(path) == read_token(path) == token
    assert load_or_create_token(tmp_path / "another") != token


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"a" * 64, 0o640, "others can read it"),
        (b"a" * 64, 0o604, "others can read it"),
        (b"", 0o600, "not a token"),
        (b"g" * 64, 0o600, "not a token"),
        (b"a" * 64 + b"\nmore", 0o600, "not a token"),
        (b"\xff" * 64, 0o600, "cannot be read"),
        (None, 0, "no such file"),
    ],
)
def test_a_token_that_may_not_be_used_is_refused_without_showing_it(
    tmp_path: Path, content: bytes | None, mode: int, why: str
) -> None:
    path = tmp_path / "sampler.token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(SamplerError, match=why) as caught:
        read_token(path)
    assert caught.value.code == "E_SAMPLER_TOKEN"
    assert "aaa" not in caught.value.explain()


def test_job_and_server_look_in_the_same_place() -> None:
    settings = build_config({"corpus": ".", "workspace": "w"})
    assert token_path(settings) == Path("w/keys/sampler.token")
    named = build_config({"corpus": "."}, {"sampler.token_file": "secret/t"})
    assert token_path(named) == Path("secret/t")


def test_a_proof_is_the_hmac_of_its_lines() -> None:
    # RFC 4231, test case 2
    assert proof("Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert proof("k", "server", "127.0.0.1:1", "aa") == proof("k", "server\n127.0.0.1:1\naa")


def test_a_proof_holds_for_one_token_and_one_matter_only() -> None:
    good = proof("a", "server", "127.0.0.1:1", "n", "m")
    assert is_proof(good, "a", "server", "127.0.0.1:1", "n", "m")
    for about in (("client", "127.0.0.1:1", "n", "m"), ("server", "127.0.0.1:2", "n", "m"), ("server", "127.0.0.1:1", "m", "n")):
        assert not is_proof(good, "a", *about)
    assert not is_proof(good, "b", "server", "127.0.0.1:1", "n", "m")
    for given in ("", good[:-1], good.upper(), "\udcff\xff"):
        assert not is_proof(given, "a", "server", "127.0.0.1:1", "n", "m")


def test_nonces_are_new_and_known_by_their_form() -> None:
    nonces = {new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(map(is_nonce, nonces))
    assert not any(map(is_nonce, ("", "0" * 63, "0" * 64 + "\n", "G" * 64)))
