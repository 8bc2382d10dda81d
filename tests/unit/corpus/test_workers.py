import io
import json
import threading
import time

import pytest

from spice_enterprise.config import IngestConfig
from spice_enterprise.corpus import workers as module
from spice_enterprise.corpus.preparing import Outcome, rejected
from spice_enterprise.corpus.workers import Batch, Workers, WorkerSettings
from spice_enterprise.errors import CorpusError
from spice_enterprise.policy import load_pii
from spice_enterprise.records import Document

SETTINGS = WorkerSettings(config=IngestConfig(), policy=load_pii(), key=b"k" * 32)


def batch(*names: str) -> Batch:
    documents = tuple(Document(uri=name, media_type="", keyed_digest=name, size_bytes=1) for name in names)
    return Batch(documents=documents, contents=tuple(name.encode() for name in names))


class Fake:
    """A worker process that dies of documents called `kill` and refuses those called `break`."""

    started = 0

    def __init__(self, settings):
        type(self).started += 1
        self.is_ended = False

    def ask(self, asked):
        if any(d.uri == "kill" for d in asked.documents):
            raise BrokenPipeError
        if any(d.uri == "break" for d in asked.documents):
            raise CorpusError("the machine is broken", code="E_SANDBOX")
        return [Outcome(result=rejected(d, "E_TEST", c.decode())) for d, c in zip(asked.documents, asked.contents, strict=True)]

    def end(self):
        self.is_ended = True


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    Fake.started = 0
    monkeypatch.setattr(module, "_Worker", Fake)


def codes(results):
    return [[(o.result.uri, o.result.code) for o in outcomes] for _, outcomes in results]


def test_outcomes_come_in_the_order_of_the_batches_whoever_is_faster(monkeypatch):
    slow = Fake.ask

    def ask(self, asked):
        time.sleep(0.05 if asked.documents[0].uri == "a" else 0)
        return slow(self, asked)

    monkeypatch.setattr(Fake, "ask", ask)
    pool = Workers(SETTINGS, 2)
    found = codes(pool.map(iter([batch("a", "b"), batch("c"), batch("d"), batch("e"), batch("f"), batch("g")])))
    pool.close()
    assert [uri for batch_codes in found for uri, _ in batch_codes] == list("abcdefg")
    assert Fake.started <= 2


def test_a_document_that_kills_its_worker_is_rejected_and_its_neighbours_are_not():
    pool = Workers(SETTINGS, 1)
    found = codes(pool.map(iter([batch("a", "kill", "b"), batch("c")])))
    pool.close()
    assert found == [[("a", "E_TEST"), ("kill", "E_LIMIT"), ("b", "E_TEST")], [("c", "E_TEST")]]


def test_broken_machinery_is_an_exception_and_ends_the_pool():
    pool = Workers(SETTINGS, 1)
    with pytest.raises(CorpusError) as caught:
        list(pool.map(iter([batch("break")])))
    assert caught.value.code == "E_SANDBOX"
    pool.close()


def test_closing_ends_a_worker_in_the_middle_of_a_batch_and_starts_no_other(monkeypatch):
    asked_once = threading.Event()

    def ask(self, asked):
        asked_once.set()
        while not self.is_ended:
            time.sleep(0.01)
        raise BrokenPipeError

    monkeypatch.setattr(Fake, "ask", ask)
    pool = Workers(SETTINGS, 1)
    results = pool.map(iter([batch("a", "b")] * 4))
    waiting = threading.Thread(target=lambda: next(results), daemon=True)
    waiting.start()
    assert asked_once.wait(5)
    pool.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert Fake.started == 1


def test_few_batches_are_drawn_ahead():
    drawn = []

    def draw():
        for i in range(50):
            drawn.append(i)
            yield batch(str(i))

    pool = Workers(SETTINGS, 2)
    next(pool.map(draw()))
    assert len(drawn) <= 6
    pool.close()


class _Std:
    def __init__(self, data=b""):
        self.buffer = io.BytesIO(data)


def test_a_worker_answers_a_stray_failure_without_its_text(monkeypatch, capfd):
    class Broken:
        def prepare(self, documents, contents):
            raise ValueError("Anna Weiss")

    told = {"config": SETTINGS.config.model_dump(mode="json"), "policy": SETTINGS.policy.model_dump(mode="json"), "key": "aw=="}
    asked = batch("a")
    header = [{"document": json.loads(module.canonical_json(asked.documents[0])), "size": 1}]
    stdin = _Std(json.dumps(told).encode() + b"\n" + json.dumps(header).encode() + b"\na")
    stdout = _Std()
    monkeypatch.setattr(module.sys, "stdin", stdin)
    monkeypatch.setattr(module.sys, "stdout", stdout)
    monkeypatch.setattr(module.WorkerSettings, "preparer", lambda self: Broken())
    monkeypatch.setattr(module.offline.GUARD, "start", lambda **_: None)
    module.main()
    answer = json.loads(stdout.buffer.getvalue())
    assert (answer["code"], "Weiss" in json.dumps(answer)) == ("E_INTERNAL", False)
    assert "Weiss" not in "".join(capfd.readouterr())
