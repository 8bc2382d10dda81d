"""Damaged files through the real parser child, and children that lie: only the child may break.

`make nightly` does the same with 10,000 files.
"""

import random
import resource
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from benchmarks import mutations
from benchmarks.mutations import MUTATIONS, Seed, is_fixed_phrase, mutation, problem_of, run, seeds
from spice_enterprise.corpus import child_protocol, sandbox
from spice_enterprise.corpus.archives import Member
from spice_enterprise.corpus.child_protocol import decode_answer, decode_contents, line_of
from spice_enterprise.corpus.reading import Parsed
from spice_enterprise.corpus.sandbox import BATCH, RawDocument, Sandbox, Unparsed

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BROKEN = Unparsed(code="E_LIMIT", reason="the parser died or exceeded its limits")


@pytest.fixture(scope="module")
def given() -> list[Seed]:
    return seeds(DATA if DATA.is_dir() else None)


def test_seeds_read_well() -> None:
    made = seeds()
    raw = [RawDocument(suffix=seed.suffix, data=seed.data) for seed in made]
    answers = [Sandbox(is_required=False).expand(d) if d.suffix in mutations.ARCHIVE_SUFFIXES else None for d in raw]
    read = Sandbox(is_required=False).parse([d for d in raw if d.suffix not in mutations.ARCHIVE_SUFFIXES])
    assert [answer for answer in (*read, *answers) if isinstance(answer, Unparsed)] == []
    assert len(made) == len({seed.suffix for seed in made}) >= 16


@pytest.mark.slow
def test_500_damaged_files(given: list[Seed]) -> None:
    result = run(range(500), given)
    assert (result.executions, result.parent_failures, result.wrong, result.deaths) == (500, [], [], [])
    assert len(result.outcomes) > 4
    assert result.outcomes["text"] < 400


def test_an_execution_is_told_by_its_number(given: list[Seed]) -> None:
    assert [mutation(n, given).data for n in range(40)] == [mutation(n, given).data for n in range(40)]
    assert len({mutation(n, given).data for n in range(200)}) > 190


@pytest.mark.parametrize("mutate", sorted(set(MUTATIONS), key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_a_mutation_changes_every_kind_of_file(mutate: mutations.Mutate) -> None:
    made = seeds()
    for number, seed in enumerate(made):
        other = made[number - 1].data
        changed = [mutate(random.Random(n), seed.data, other) for n in range(20)]  # noqa: S311 - chance, not secrecy
        assert mutate in _NEEDS_WORDS or sum(data != seed.data for data in changed) >= 5
        assert all(len(data) < 9_000_000 for data in changed)


_NEEDS_WORDS = (mutations.renumber, mutations.rename)
"""They leave a file alone in which nothing is written out."""


class Liar(Sandbox):
    """A sandbox whose answers are wrong, to see that this is noticed."""

    def __init__(self, answer: object) -> None:
        super().__init__(is_required=False)
        self.answer = answer

    def parse(self, documents: object) -> list[object]:  # type: ignore[override]
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer] * len(documents)  # type: ignore[arg-type]

    def expand(self, archive: object) -> object:  # type: ignore[override]
        return []


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (ValueError("x"), "parent_failures"), (Parsed(media_type="t", pages=(" ",)), "wrong"),
        (Parsed(media_type="t", pages=("a\u202eb",)), "wrong"), (Unparsed(code="E_ODD", reason="no text in the file"), "wrong"),
        (Unparsed(code="E_PARSE", reason="no text about the harbour valve"), "wrong"), (BROKEN, "deaths"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_counted(answer: object, field: str) -> None:
    text = [Seed(suffix=".txt", data=b"words")]
    numbers = [n for n in range(BATCH) if mutation(n, text).suffix == ".txt"]
    assert getattr(run(numbers, text, Liar(answer)), field)


def test_reasons_are_phrases_of_the_source() -> None:
    assert is_fixed_phrase("the file has 0 bytes")
    assert is_fixed_phrase("the PDF cannot be opened")
    assert is_fixed_phrase("the archive cannot be opened (ReadError)")
    assert is_fixed_phrase("larger than 12 bytes")
    assert not is_fixed_phrase("Write to the crew about order 4711")
    assert not is_fixed_phrase("the archive cannot be opened (of Anna Weiss and others)")
    assert problem_of([Member(name="", data=b"")]) != ""


# --- children that lie ------------------------------------------------------------------------------------------------


_GREETS = """
import json, sys
given, out = sys.stdin.buffer, sys.stdout.buffer
given.readline()
out.write(b"net\\n")
out.flush()
given.read(json.loads(given.readline())["size_bytes"])
"""


def replace_child(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    program = f"{_GREETS}\n{program}\nout.flush()"
    monkeypatch.setattr(sandbox, "_COMMAND", (sys.executable, "-I", "-c", program))


LIES = {
    "random bytes": "import os\nfor _ in range(99): out.write(os.urandom(9000))",
    "line without end": "out.write(b'x' * (130 << 20))",
    "tower of brackets": "out.write(b'[' * 1_000_000 + b'\\n')",
    "number of a million digits": "out.write(b'{\"code\": \"E_X\", \"reason\": ' + b'9' * 1_000_000 + b'}\\n')",
    "negative sizes": 'out.write(b\'{"members": [["a", -5], ["b", -1]]}\\n\')',
    "sizes without end": 'out.write(b\'{"members": [["a", 1e999]]}\\n\')',
    "more members than bytes": 'out.write(b\'{"members": [["a", 5], ["b", 100000000]]}\\nxxxxx\')',
    "name that leaves": 'out.write(b\'{"members": [["../../a", 1]]}\\nx\')',
    "lone surrogates": 'out.write(b\'{"code": "E_X", "reason": "\\\\ud800"}\\n\')',
    "text in a reason": 'out.write(b\'{"code": "E_X", "reason": "a\\\\nb"}\\n\')',
    "many answers": "out.write(b'{}\\n' * 99)",
    "nothing at all": "",
    "death": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "closed pipes": "out.close()\nsys.stdin.close()\nimport time\ntime.sleep(9)\nout = open('/dev/null', 'wb')",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_lies_costs_its_document_only(monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    replace_child(monkeypatch, LIES[lie])
    box = Sandbox(is_required=False, wall_s=2.0)
    begun = time.monotonic()
    assert box.parse([RawDocument(suffix=".txt", data=b"x" * 100_000)]) == [BROKEN]
    assert box.expand(RawDocument(suffix=".zip", data=b"x")) == BROKEN
    assert time.monotonic() - begun < 40.0


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b'"",', b'"', b'"\\"', b"1.5,", b'{"a":'])
def test_an_answer_of_many_small_things_is_not_decoded(piece: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = b'{"members":[' + piece * (20_000_000 // len(piece)) + b"0]}\n"
    assert decode_answer(line) is None
    assert decode_contents(line) is None
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10
    )  # KiB; objects would take twenty times the line


@pytest.mark.parametrize("text", ["a" * 3_000_000, 'é"\n\\' * 500_000, "\U0001f600" * 500_000])
def test_long_texts_are_taken(text: str) -> None:
    pages = tuple(text[i : i + 1_000] for i in range(0, len(text), 1_000))
    answer = decode_answer(line_of(Parsed(media_type="text/plain", pages=pages)))
    assert isinstance(answer, Parsed)
    assert len(answer.pages) == len(pages)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@drawn(_JSON)
def test_what_stands_outside_of_texts_is_counted_right(value: object) -> None:
    line = child_protocol.json.dumps(value).encode() + b"\n"
    outside, is_inside, is_escaped = 0, False, False
    for byte in line:
        outside += not is_inside and byte != ord('"')
        if is_escaped or byte != ord('"'):
            is_escaped = is_inside and byte == ord("\\") and not is_escaped
        else:
            is_inside = not is_inside
    found = sum(match.end() - match.start() for match in child_protocol._STRING.finditer(line))
    assert len(line) - found == outside
