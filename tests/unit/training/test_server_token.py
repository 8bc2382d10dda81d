"""The token file of a sampler server: made once, private, never shown."""

from pathlib import Path

import pytest

from spice_enterprise.config import build_config
from spice_enterprise.errors import SamplerError
from spice_enterprise.training.server_token import load_or_create_token, read_token, token_path


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
