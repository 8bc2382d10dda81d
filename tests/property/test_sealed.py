"""No change of a sealed file passes for what was written; lines that were appended survive a failed append."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise import durable, sealed
from spice_enterprise.errors import IntegrityError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=VALUES, place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_and_any_cut_is_found(
    tmp_path_factory: pytest.TempPathFactory, value: object, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "value.json"
    sealed.write_value(path, value)
    assert sealed.read_value(path) == value
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[place % len(data)] ^= 1 << bit
    for damaged in (bytes(flipped), data[: place % len(data)], bytes(len(data)), data + b"\n", data * 2):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            sealed.read_value(path)
        assert caught.value.code == "E_STATE_CORRUPT"
    path.unlink()
    with pytest.raises(IntegrityError, match=r"value\.json: it is missing"):
        sealed.read_value(path)


@settings(deadline=None)
@given(
    lines=st.lists(st.binary(min_size=1, max_size=30).map(lambda b: b.hex().encode()), min_size=1, max_size=5),
    room=st.integers(0, 80),
)
def test_a_failed_append_leaves_the_lines_of_before(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], room: int
) -> None:
    path = tmp_path_factory.mktemp("grown") / "lines"
    durable.append_lines(path, [b"first"])
    data = b"".join(line + b"\n" for line in lines)
    written = 0

    def short(handle: int, view: memoryview) -> int:
        nonlocal written
        if written >= room:
            raise OSError(errno.ENOSPC, "full")
        count = os.pwrite(handle, bytes(view[: room - written]), os.fstat(handle).st_size)
        written += count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable.os, "write", short)
        if room < len(data):
            with pytest.raises(OSError, match="full"):
                durable.append_lines(path, lines)
        else:
            durable.append_lines(path, lines)
    assert path.read_bytes() == b"first\n" + (data if room >= len(data) else b"")
    durable.append_lines(path, [b"next"])
    assert path.read_bytes().endswith(b"\nnext\n")
