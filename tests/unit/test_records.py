"""Records: ids come from content, decoding is strict, nothing prints text."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from spice_enterprise import records
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import Chunk, Document, Redaction, Step, canonical_json, decode, digest_of, id_of

CHUNK = {
    "document_id": "doc_1",
    "index": 0,
    "text": "CANARY-text",
    "redactions": [{"start": 0, "end": 3, "entity": "PERSON"}],
    "split": "train",
    "pii_policy_digest": "sha256:0",
    "token_count": 3,
}


def step(**changes: object) -> Step:
    values = {
        "number": 1,
        "adapter_id": "adapter_1",
        "rollout_ids": ["roll_1"],
        "is_applied": True,
        "reward_mean": 0.5,
        "reward_std": 0.1,
        "challenger_reward_mean": 0.5,
        "reasoner_reward_mean": 0.5,
        "frac_zero_std": 0.0,
        "loss": 0.1,
        "grad_norm": 1.0,
        "kl_nats_per_token": 0.0,
        "entropy_nats_per_token": 1.0,
        "length_mean_tokens": 4.0,
        "invalid_rate": 0.25,
        "trained_tokens": 10,
        **changes,
    }
    return decode(Step, values)


def test_a_record_survives_json() -> None:
    chunk = decode(Chunk, CHUNK)
    assert decode(Chunk, json.loads(canonical_json(chunk))) == chunk
    assert chunk.redactions == (Redaction(start=0, end=3, entity="PERSON"),)


_ID_FIELDS = {
    "document_id", "index", "text", "redactions", "split", "pii_policy_digest", "token_count", "page", "section", "last_page",
}  # fmt: skip


def test_the_id_is_sixteen_hex_of_the_content() -> None:
    chunk = decode(Chunk, CHUNK)
    content = {f.name: getattr(chunk, f.name) for f in dataclasses.fields(chunk) if f.name in _ID_FIELDS}
    assert chunk.chunk_id == "chunk_" + digest_of(content).removeprefix("sha256:")[:16]
    assert id_of(chunk) == chunk.chunk_id
    assert decode(Chunk, {**CHUNK, "index": 1}).chunk_id != chunk.chunk_id


def test_ids_survive_a_process_restart() -> None:
    code = "import json,sys; from spice_enterprise.records import *; print(decode(Chunk, json.loads(sys.argv[1])).chunk_id)"
    out = subprocess.run([sys.executable, "-c", code, json.dumps(CHUNK)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == decode(Chunk, CHUNK).chunk_id


def test_duration_does_not_change_a_step() -> None:
    assert step(duration_s=1.0).step_id == step(duration_s=2.0).step_id
    assert step(loss=0.2).step_id != step().step_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "secret-split"}, "Chunk.split: wrong type or value (str)"),
        ({"index": "0"}, "Chunk.index: wrong type or value (str)"),
        ({"index": True}, "Chunk.index: wrong type or value (bool)"),
        ({"extra": 1}, "Chunk: 1 unknown field(s)"),
        ({"chunk_id": "chunk_0"}, "Chunk.chunk_id: the id does not match the content"),
        ({"redactions": [{"start": 0, "end": 1}]}, "Chunk.redactions[0]: missing entity"),
    ],
)
def test_decoding_names_the_path_and_never_the_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        decode(Chunk, {**CHUNK, **change})
    assert caught.value.message == message
    assert "CANARY" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_text_is_never_printed() -> None:
    assert "CANARY" not in repr(decode(Chunk, CHUNK))


def test_non_finite_numbers_survive_json() -> None:
    bad = step(loss=float("nan"), grad_norm=float("inf"))
    back = decode(Step, json.loads(canonical_json(bad)))
    assert math.isnan(back.loss)
    assert back.grad_norm == math.inf
    assert back.step_id == bad.step_id


def test_metrics_have_exactly_the_keys_a_monitor_expects() -> None:
    assert set(step().metrics()) == set(records.StepMetrics.__annotations__)
    assert step().metrics()["n_rollouts"] == 1.0


def test_no_record_holds_a_dict() -> None:
    for value in vars(records).values():
        if dataclasses.is_dataclass(value):
            assert "dict" not in str([f.type for f in dataclasses.fields(value)]).lower()


def test_only_scrub_makes_scrubbed_text() -> None:
    from pathlib import Path

    package = Path(records.__file__).parent
    callers = [p.name for p in package.rglob("*.py") if "ScrubbedText(" in p.read_text(encoding="utf-8")]
    assert callers == ["scrub.py"]


def test_a_document_holds_no_text() -> None:
    names = {f.name for f in dataclasses.fields(Document)}
    assert not names & {"text", "content", "body", "bytes"}
