"""What goes over the wire to a sampler server comes back bit for bit; anything else is refused without being quoted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AdapterVersion, Completion, Message, Prompt, digest_of
from spice_enterprise.sealed import digest_bytes
from spice_enterprise.training import wire
from spice_enterprise.training.wire import SampleReply, SampleRequest

texts = st.text(max_size=20)
floats = st.floats(allow_nan=False)
prompts = st.builds(
    Prompt,
    messages=st.lists(
        st.builds(Message, speaker=st.sampled_from(["system", "user", "assistant"]), content=texts), max_size=3
    ).map(tuple),
    template_id=texts,
    max_new_tokens=st.integers(1, 2**40),
    temperature=st.floats(0.0, 2.0),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    prefill=texts,
)
ids = st.lists(st.integers(0, 2**31), max_size=5).map(tuple)
completions = st.builds(
    Completion, prompt_token_ids=ids, token_ids=ids, logprobs=st.lists(floats, max_size=5).map(tuple), text=texts,
    stop_reason=st.sampled_from(["stop", "length"]), adapter_digest=texts,
)  # fmt: skip
requests = st.builds(
    SampleRequest, identity=texts, adapter_digest=texts, prompts=st.lists(prompts, min_size=1, max_size=3).map(tuple),
    n=st.integers(1, wire.MAX_COMPLETIONS), seed=st.integers(-(2**70), 2**70),
)  # fmt: skip
replies = st.builds(SampleReply, groups=st.lists(st.lists(completions, max_size=3).map(tuple), max_size=3).map(tuple))


@given(record=st.one_of(requests, replies))
def test_records_come_back_bit_for_bit(record: SampleRequest | SampleReply) -> None:
    line = wire.write_record(record)
    assert b"\n" not in line
    back = wire.read_record(type(record), line)
    assert back == record
    assert repr(wire.write_record(back)) == repr(line)


@given(body=st.binary(max_size=60))
def test_bytes_that_are_no_record_are_refused_without_being_quoted(body: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        wire.read_record(SampleReply, b"private-7731" + body)
    assert "7731" not in caught.value.explain()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(request=requests, key=st.sampled_from(["identity", "adapter_digest", "prompts", "n", "seed"]), value=json_values)
def test_a_field_of_another_kind_is_refused_or_read_as_what_it_is(request: SampleRequest, key: str, value: object) -> None:
    data = {**json.loads(wire.write_record(request)), key: value}
    try:
        back = wire.read_record(SampleRequest, json.dumps(data).encode())
    except IntegrityError:
        return
    assert json.loads(wire.write_record(back))[key] == value


@given(weights=st.binary(max_size=50), settings=st.binary(max_size=20), cut=st.integers(-3, 3))
def test_an_adapter_is_read_back_only_whole(weights: bytes, settings: bytes, cut: int) -> None:
    files = {"adapter_config.json": settings, "adapter_model.safetensors": weights}
    manifest = digest_bytes(files)
    version = AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=None, step=0, base_model="m", base_digest="b", corpus_digest="c",
        config_digest="c", manifest=manifest, digest=digest_of(manifest),
    )  # fmt: skip
    head, *parts = wire.write_adapter(wire.AdapterHead(identity="i", version=version), files)
    assert wire.read_record(wire.AdapterHead, head).version == version
    body = b"".join(parts)
    damaged = body[:cut] if cut < 0 else body + b"x" * cut
    if damaged == body:
        assert wire.read_adapter_files(version, memoryview(body)) == files
    else:
        with pytest.raises(IntegrityError, match="refused"):
            wire.read_adapter_files(version, memoryview(damaged))


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"groups": NaN}', b"{}{}", b"", b'{"groups": ' + b"1" * 5000 + b"}"])
def test_json_that_is_none(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        wire.read_record(SampleReply, body)
