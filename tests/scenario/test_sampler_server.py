"""A job and its sampler server, with a scripted sampler behind the server: what is served, and everything that goes wrong."""

import http.client
import json
import os
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_socket import enable_socket

from spice_enterprise import offline
from spice_enterprise.errors import ConfigError, DeliveryError, SamplerError
from spice_enterprise.records import AdapterVersion, Completion, Message, Prompt, digest_of
from spice_enterprise.sealed import digest_bytes, save_directory
from spice_enterprise.testing import ScriptedSampler
from spice_enterprise.training import loopback_http, sampler_engine, wire
from spice_enterprise.training.checkpoints import adapter_dir
from spice_enterprise.training.delivery import open_version
from spice_enterprise.training.loopback_http import LoopbackListener
from spice_enterprise.training.sampler_server import SamplerServer, listening, private_folder
from spice_enterprise.training.server_line import ServerLine
from spice_enterprise.training.server_sampler import MAX_ATTEMPTS, MAX_PROMPTS, ServerSampler
from spice_enterprise.training.server_token import new_nonce, proof
from spice_enterprise.training.wire import Identity, SampleReply

TOKEN = "5ec2e7" * 10 + "5ec2"
BASE = "b" * 64
SECRET = "the-private-words-7731"
IDENTITY = Identity(
    kind="fake", versions=(("fake", "1"),), base_digest=BASE, dtype="float32", weights="base", max_context_tokens=99
)


@pytest.fixture(autouse=True)
def loopback(no_network: object) -> Iterator[None]:
    """Sockets work here, and the guard counts whatever is not loopback."""
    enable_socket()
    offline.GUARD.start(is_offline=True)
    yield
    assert offline.GUARD.stop() == 0


def encode(prompt: Prompt) -> tuple[int, ...]:
    return tuple("".join(message.content for message in prompt.messages).encode())


def ask(text: str = SECRET, **rest: Any) -> Prompt:
    return Prompt(messages=(Message(speaker="user", content=text),), template_id="t", max_new_tokens=40, **rest)


class StreamedSampler(ScriptedSampler):
    """Writes a random number; what it serves is read from the folder, as a real one does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda prompt, random: f"{len(encode(prompt))}-{random.random()}")
        self.folder = folder
        self.published: list[str] = []
        self.before_take: Callable[[dict[str, Any]], None] = lambda _: None
        self.after_take: Callable[[Completion], Completion] = lambda completion: completion

    def publish(self, version: AdapterVersion | None) -> None:
        if version is not None:
            open_version(self.folder, version)
        super().publish(version)
        self.published.append(self.adapter_digest)

    @contextmanager
    def stream(self) -> Iterator[Any]:
        groups: dict[str, tuple[Prompt, int, int]] = {}

        def put(key: str, prompt: Prompt, *, n: int, seed: int) -> None:
            if prompt.template_id == "too long":
                raise SamplerError("999 tokens do not fit", code="E_CONTEXT")
            groups[key] = (prompt, n, seed)

        def take() -> list[tuple[str, list[Completion]]]:
            self.before_take(groups)
            key = min(groups, key=int)
            prompt, n, seed = groups.pop(key)
            return [(key, [self.after_take(c) for c in self.sample([prompt], n=n, seed=seed)[0]])]

        yield SimpleNamespace(put=put, take=take)


def make_version(run_dir: Path, *, step: int = 1, base_digest: str = BASE) -> AdapterVersion:
    files = {"adapter_model.safetensors": b"weights" * step, "adapter_config.json": b"{}"}
    manifest = digest_bytes(files)
    version = AdapterVersion(
        role="shared", parent_adapter_id=None, step_id=None, step=step, base_model="fake", base_digest=base_digest,
        corpus_digest="c", config_digest="c", manifest=manifest, digest=digest_of(manifest),
    )  # fmt: skip
    save_directory(adapter_dir(run_dir, version.adapter_id), files)
    return version


class Place:
    """One server that can be started again on its port, and clients for it."""

    def __init__(self, tmp_path: Path, stack: ExitStack) -> None:
        self.run_dir = tmp_path / "run"
        self.folder = tmp_path / "served"
        self.stack = stack
        self.port = 0
        self.servers: list[ExitStack] = []

    def start(self, identity: Identity = IDENTITY, change: Callable[[StreamedSampler], None] = lambda _: None) -> StreamedSampler:
        server = self.stack.enter_context(ExitStack())
        self.servers.append(server)
        listener = server.enter_context(LoopbackListener(self.port, token=TOKEN))
        self.port = listener.port
        folder = server.enter_context(private_folder(self.folder, self.port))
        self.sampler = StreamedSampler(folder)
        change(self.sampler)
        self.server = SamplerServer(self.sampler, identity, folder)
        server.callback(self.server.close)
        server.enter_context(listening(listener))
        listener.routes = self.server.routes
        return self.sampler

    def load(self) -> LoopbackListener:
        """Take the port as a server does that has no weights yet."""
        server = self.stack.enter_context(ExitStack())
        self.servers.append(server)
        listener = server.enter_context(LoopbackListener(self.port, token=TOKEN))
        self.port = listener.port
        server.enter_context(listening(listener))
        return listener

    def stop(self) -> None:
        self.servers.pop().close()

    def client(self, *, timeout_s: float = 20.0, token: str = TOKEN, **changes: Any) -> ServerSampler:
        line = ServerLine(f"http://127.0.0.1:{self.port}", token=token, timeout_s=timeout_s)
        given = {"base_digest": BASE, "dtype": "float32", "weights": "base", "encode_prompt": encode, "run_dir": self.run_dir}
        return ServerSampler(line, **{**given, **changes})

    def greet(self, connection: http.client.HTTPConnection, method: str, path: str) -> str:
        """Return the authorisation of one request on this connection."""
        nonce = new_nonce()
        connection.request("GET", wire.HELLO, headers={wire.NONCE_HEADER: nonce})
        hello = json.loads(connection.getresponse().read())
        about = (f"127.0.0.1:{self.port}", nonce, hello["nonce"])
        assert hello["proof"] == proof(TOKEN, "server", *about)
        return f"Spice {proof(TOKEN, 'client', *about, method, path)}"

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        given = {"Authorization": self.greet(connection, method, path), "Content-Length": str(len(body))}
        connection.putrequest(method, path)
        for name, value in {**given, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        try:
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("spice_enterprise.training.sampler_server.LOOK_S", 0.02)
    monkeypatch.setattr("spice_enterprise.training.loopback_http.LOOK_S", 0.02)
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def in_process(place: Place, version: AdapterVersion | None) -> StreamedSampler:
    sampler = StreamedSampler(place.run_dir)
    sampler.publish(version)
    return sampler


def take_all(stream: Any) -> dict[str, list[Completion]]:
    found: dict[str, list[Completion]] = {}
    while done := stream.take():
        found |= dict(done)
    return found


def play(client: ServerSampler, groups: int = 5) -> dict[str, list[Completion]]:
    with client.stream() as stream:
        for i in range(groups):
            stream.put(str(i), ask(f"{SECRET} {i}"), n=3, seed=i)
        return take_all(stream)


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_server_answers_as_the_sampler_in_this_process_does(place: Place, is_adapted: bool) -> None:
    place.start()
    client, version = place.client(), make_version(place.run_dir) if is_adapted else None
    near = in_process(place, version)
    client.publish(version)
    prompts = [ask(f"{SECRET} {i}") for i in range(3)]
    many = [ask(str(i)) for i in range(2 * MAX_PROMPTS)]
    assert client.sample(many, n=1, seed=3) == near.sample(many, n=1, seed=3)  # drawn: each has its place in the seed
    assert client.adapter_digest == near.adapter_digest
    assert client.sample(prompts, n=2, seed=2**62) == near.sample(prompts, n=2, seed=2**62)
    assert client.score(prompts, [["a", "b"], [], ["c"]]) == near.score(prompts, [["a", "b"], [], ["c"]])
    assert play(client) == {str(i): near.sample([ask(f"{SECRET} {i}")], n=3, seed=i)[0] for i in range(5)}
    assert client.sample([], n=1, seed=0) == []


def test_many_greedy_prompts_go_in_parts_with_the_same_answers(place: Place) -> None:
    sampler = place.start()
    sampler.script = lambda prompt, _: str(len(encode(prompt)))
    prompts = [ask("x" * i, temperature=0.0) for i in range(1, 71)]
    assert [row[0].text for row in place.client().sample(prompts, n=1, seed=0)] == [str(i) for i in range(1, 71)]
    assert sampler.calls == 3


def test_groups_that_come_together_are_written_together(place: Place) -> None:
    sizes: list[int] = []
    place.start(change=lambda sampler: setattr(sampler, "before_take", lambda groups: sizes.append(len(groups))))
    play(place.client(), 8)
    assert sizes[0] > 1


def test_a_key_in_flight_is_refused_and_an_empty_stream_has_nothing(place: Place) -> None:
    place.start()
    with place.client().stream() as stream:
        assert stream.take() == []
        stream.put("k", ask(), n=1, seed=0)
        with pytest.raises(ValueError, match="in flight"):
            stream.put("k", ask(), n=1, seed=0)


def test_two_clients_with_two_adapters_both_get_their_own(place: Place) -> None:
    place.start()
    versions = [None, *(make_version(place.run_dir, step=i) for i in (1, 2))]
    clients = [place.client() for _ in versions]
    for client, version in zip(clients, versions, strict=True):
        client.publish(version)
    for _ in range(2):
        for client, version in zip(clients, versions, strict=True):
            assert play(client) == {
                str(i): in_process(place, version).sample([ask(f"{SECRET} {i}")], n=3, seed=i)[0] for i in range(5)
            }


def test_an_adapter_that_was_crowded_out_is_delivered_again(place: Place) -> None:
    sampler = place.start()
    first = make_version(place.run_dir, step=1)
    client, other = place.client(), place.client()
    client.publish(first)
    for step in range(2, 3 + sampler_engine.MAX_HELD):
        other.publish(make_version(place.run_dir, step=step))
    assert len(list((sampler.folder / "adapters").iterdir())) == sampler_engine.MAX_HELD
    assert {c.adapter_digest for group in play(client).values() for c in group} == {first.digest}
    assert {c.adapter_digest for c in client.sample([ask(), ask()], n=1, seed=0)[0]} == {first.digest}
    assert sampler.published.count(first.digest) == 2


def test_publishing_twice_and_equal_weights_under_another_id_change_nothing(place: Place) -> None:
    sampler = place.start()
    version = make_version(place.run_dir)
    twin = replace(version, parent_adapter_id="adapter_0")
    save_directory(adapter_dir(place.run_dir, twin.adapter_id), open_version(place.run_dir, version))
    client = place.client()
    for one in (version, version, twin):
        client.publish(one)
        assert play(client, 1)["0"][0].adapter_digest == version.digest
    assert [item.name for item in (sampler.folder / "adapters").iterdir()] == [twin.adapter_id]


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Spice", f"Bearer {TOKEN}", f"Spice {'0' * 64}", f"Spice {TOKEN}", "Spice \xff"])
@pytest.mark.parametrize("path", [wire.HEALTH, wire.SAMPLES, "/"])
def test_without_a_proof_there_is_nothing(place: Place, header: str, path: str) -> None:
    place.start()
    assert place.request("GET", path, Authorization=header)[0] == 401


def status_of(connection: http.client.HTTPConnection, path: str, **headers: str) -> int:
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    response.read()
    return response.status


def test_without_a_greeting_there_is_nothing(place: Place) -> None:
    place.start()
    for headers in ({}, {"Authorization": f"Spice {proof(TOKEN, 'client', 'GET', wire.HEALTH)}"}):
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)
        assert status_of(connection, wire.HEALTH, **headers) == 401
        connection.close()


@pytest.mark.parametrize("nonce", ["", "00", "g" * 64, "0" * 65])
def test_a_greeting_without_a_nonce_is_refused(place: Place, nonce: str) -> None:
    place.start()
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)
    assert status_of(connection, wire.HELLO, Spice_Nonce=nonce) == 400
    connection.close()


def test_an_authorisation_is_good_for_one_request_on_its_connection(place: Place) -> None:
    place.start()
    first, second, third = (http.client.HTTPConnection("127.0.0.1", place.port, timeout=10) for _ in range(3))
    for connection in (first, second, third):
        connection.connect()
        connection.auto_open = 0
    good = place.greet(first, "GET", wire.HEALTH)
    assert status_of(first, wire.HEALTH, Authorization=good) == 200
    with pytest.raises(http.client.NotConnected):
        status_of(first, wire.HEALTH, Authorization=good)
    place.greet(second, "GET", wire.HEALTH)
    assert status_of(second, wire.HEALTH, Authorization=good) == 401
    assert status_of(third, wire.HEALTH, Authorization=place.greet(third, "GET", wire.SAMPLES)) == 401


@contextmanager
def recording(answer: Callable[[bytes], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Listen as somebody who does not know the token and writes down all that is sent to it."""
    heard: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            with suppress(OSError):
                while data := self.request.recv(65536):
                    heard.append(data)
                    self.request.sendall(answer(data))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1], heard
        finally:
            server.shutdown()
            thread.join()


def lie(data: bytes) -> bytes:
    """Greet as a server does that has another token."""
    return hello(data, 0, token="0" * 64)


def test_an_impostor_on_the_port_gets_neither_prompt_nor_token(place: Place) -> None:
    with recording(lie) as (place.port, heard):
        for use in (play, lambda client: client.publish(None), lambda client: client.sample([ask()], n=1, seed=0)):
            with pytest.raises(SamplerError, match="does not know the token") as caught:
                use(place.client())
            assert caught.value.code == "E_SAMPLER_TOKEN"
    told = b"".join(heard)
    assert told.count(b"GET /v1/hello") == len(heard) == 3
    assert not any(word.encode() in told for word in (TOKEN, SECRET, "Authorization"))


def test_an_impostor_that_comes_while_the_server_is_away_gets_no_prompt_either(place: Place) -> None:
    place.start()
    client = place.client()
    client.publish(None)
    assert play(client, 1)
    place.stop()
    with recording(lie) as (port, heard):
        client._line._port = port  # type: ignore[attr-defined]
        with pytest.raises(SamplerError) as caught:
            play(client)
    assert (caught.value.code, len(heard)) == ("E_SAMPLER_TOKEN", 1)
    assert SECRET.encode() not in heard[0]


def test_one_who_passes_greetings_on_to_the_server_gets_nothing_either(place: Place) -> None:
    place.start()

    def pass_on(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", place.port)) as server:
            server.sendall(data)
            told = b""
            while not told.endswith(b"}"):
                told += server.recv(65536)
            return told

    with recording(pass_on) as (port, heard):
        line = ServerLine(f"http://127.0.0.1:{port}", token=TOKEN, timeout_s=5)
        with pytest.raises(SamplerError) as caught:
            line.ask("POST", wire.SAMPLES, [SECRET.encode()])
    assert caught.value.code == "E_SAMPLER_TOKEN"
    assert SECRET.encode() not in b"".join(heard)


def test_a_request_never_goes_to_another_connection_than_the_one_that_was_greeted(place: Place) -> None:
    asked: list[bytes] = []
    with stub(asked.append, keeps=False) as place.port, pytest.raises(SamplerError) as caught:  # type: ignore[arg-type]
        place.client(timeout_s=0.6).publish(None)
    assert caught.value.code == "E_SAMPLER_AWAY"
    assert set(asked) == {b""}


def test_a_client_with_another_token_says_so_without_showing_it(place: Place) -> None:
    place.start()
    with pytest.raises(SamplerError, match="does not know the token of this job") as caught:
        place.client(token="f" * 64).publish(None)
    assert (caught.value.code, "f" * 64 in caught.value.explain()) == ("E_SAMPLER_TOKEN", False)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/v1/nothing", b"", {}, 404),
        ("GET", wire.SAMPLES, b"", {}, 404),
        ("GET", wire.HEALTH, b"x", {}, 413),
        ("POST", wire.SAMPLES, b"", {"Content_Length": ""}, 411),
        ("POST", wire.SAMPLES, b"", {"Content_Length": "-1"}, 411),
        ("POST", wire.SAMPLES, b"", {"Transfer_Encoding": "chunked"}, 411),
        ("POST", wire.SAMPLES, b"", {"Content_Length": str(wire.MAX_REQUEST_BYTES + 1)}, 413),
        ("POST", wire.ADAPTERS, b"", {"Content_Length": str(wire.MAX_ADAPTER_BYTES + 1)}, 413),
        ("POST", wire.SAMPLES, b"[" * 100_000, {}, 400),
        ("POST", wire.SAMPLES, b'{"private words": 1}', {}, 400),
        ("POST", wire.SCORES, b"\xff", {}, 400),
        ("POST", wire.ADAPTERS, b"no line", {}, 400),
        ("PUT", wire.SAMPLES, b"", {}, 501),
    ],
)
def test_requests_that_make_no_sense(
    place: Place, method: str, path: str, body: bytes, headers: dict[str, str], status: int, capfd: Any
) -> None:
    place.start()
    found, reply = place.request(method, path, body, **headers)
    assert found == status
    assert b"private words" not in reply
    assert play(place.client())  # and it goes on
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"n": 10**9}, {"prompts": []}, {"seed": 1.5}, {"identity": None}, {"more": 1}, {"max_new_tokens": 0},
     {"temperature": -1.0}, {"temperature": {"$num": "nan"}}, {"stop": [""]}, {"template_id": 3}],
)  # fmt: skip
def test_a_request_out_of_range_is_refused_by_field(place: Place, change: dict[str, Any]) -> None:
    place.start()
    good = json.loads(place.client().sample_request((ask(),), 1, 0)())
    assert place.request("POST", wire.SAMPLES, json.dumps(good).encode())[0] == 200
    target = good if set(change) <= {"n", "prompts", "seed", "identity", "more"} else good["prompts"][0]
    target.update(change)
    status, reply = place.request("POST", wire.SAMPLES, json.dumps(good).encode())
    assert status == 400
    assert SECRET.encode() not in reply


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_a_refusal_of_a_large_body_arrives(place: Place, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_REQUEST_BYTES", 100)
    place.start()
    line = ServerLine(f"http://127.0.0.1:{place.port}", token=TOKEN, timeout_s=5)
    refused = line.ask("POST", wire.SAMPLES, [b"x" * size])
    assert isinstance(refused, wire.Failure)
    assert "larger than 100 bytes" in refused.message
    assert place.request("POST", wire.SAMPLES, b"x" * size)[0] == 413  # one that looks only when all is sent
    assert place.request("POST", wire.SAMPLES, b"x" * size, Authorization="Spice 0")[0] == 401


def adapter_body(place: Place, version: AdapterVersion, files: dict[str, bytes]) -> bytes:
    head = wire.AdapterHead(identity=IDENTITY.digest, version=version)
    return wire.write_record(head) + b"\n" + b"".join(files[name] for name in sorted(files))


def test_an_adapter_is_refused_unless_it_is_its_records(place: Place) -> None:
    sampler = place.start()
    version = make_version(place.run_dir)
    files = open_version(place.run_dir, version)
    changed = {**files, "adapter_model.safetensors": files["adapter_model.safetensors"][:-1] + b"x"}
    foreign = digest_bytes({"../../run.json": b"{}", "adapter_model.safetensors": b"w"})
    bodies = {
        "E_ADAPTER_DIGEST": [
            adapter_body(place, version, changed),
            adapter_body(place, version, {**files, "adapter_config.json": b""}),
            adapter_body(place, replace(version, digest=digest_of("another")), files),
            adapter_body(place, replace(version, manifest=foreign, digest=digest_of(foreign)), {"a": b"{}", "b": b"w"}),
            adapter_body(place, replace(version, manifest=(), digest=digest_of([])), {}),
        ],
        "E_DELIVERY": [adapter_body(place, replace(version, base_digest="c" * 64), files)],
    }
    for code, of_code in bodies.items():
        for body in of_code:
            status, reply = place.request("POST", wire.ADAPTERS, body)
            assert (status, json.loads(reply)["code"]) == (409, code)
    assert (sampler.published, (sampler.folder / "adapters").exists()) == ([], False)
    assert place.request("POST", wire.ADAPTERS, adapter_body(place, version, files))[0] == 200


def test_an_adapter_the_sampler_refuses_leaves_the_one_before(place: Place) -> None:
    sampler = place.start()
    client, good, bad = place.client(), make_version(place.run_dir, step=1), make_version(place.run_dir, step=2)
    client.publish(good)
    publish = sampler.publish

    def refuse(version: AdapterVersion | None) -> None:
        if version == bad:
            raise DeliveryError("another rank", code="E_ADAPTER")
        publish(version)

    sampler.publish = refuse  # type: ignore[method-assign]
    with pytest.raises(DeliveryError, match="another rank") as caught:
        client.publish(bad)
    assert (caught.value.code, client.adapter_digest) == ("E_ADAPTER", good.digest)
    assert play(client)["0"][0].adapter_digest == good.digest
    assert [item.name for item in (sampler.folder / "adapters").iterdir()] == [good.adapter_id]


def test_changed_files_never_leave_this_process(place: Place) -> None:
    sampler = place.start()
    version = make_version(place.run_dir)
    (adapter_dir(place.run_dir, version.adapter_id) / "adapter_config.json").write_bytes(b"[]")
    with pytest.raises(DeliveryError, match="refused"):
        place.client().publish(version)
    assert sampler.published == []


@pytest.mark.parametrize("change", [{"base_digest": "c" * 64}, {"dtype": "bfloat16"}, {"protocol": 2}, {"weights": "twin"}])
def test_another_base_precision_or_protocol_is_refused_at_once(place: Place, change: dict[str, Any]) -> None:
    place.start(replace(IDENTITY, **change))
    for use in (lambda client: client.publish(None), play):
        with pytest.raises(DeliveryError, match=r"another (base digest|dtype|protocol|weights)"):
            use(place.client(weights="base"))


def test_a_prompt_that_does_not_fit_keeps_its_code(place: Place) -> None:
    place.start()
    with place.client().stream() as stream:
        stream.put("bad", replace(ask(), template_id="too long"), n=1, seed=0)
        with pytest.raises(SamplerError, match="do not fit") as caught:
            take_all(stream)
    assert caught.value.code == "E_CONTEXT"


def test_a_prompt_that_does_not_fit_harms_no_neighbour(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(20)

    sampler = StreamedSampler(tmp_path)
    sampler.before_take = hold
    engine = sampler_engine.SamplerEngine(sampler, tmp_path)
    prompts = (ask(), ask(), replace(ask(), template_id="too long"), ask())
    jobs = [sampler_engine.Group(adapter_digest="base", prompt=prompt, n=1, seed=i) for i, prompt in enumerate(prompts)]
    futures = [engine.submit(job) for job in jobs[:2]]
    entered.wait(20)
    futures += [engine.submit(job) for job in jobs[2:]]
    release.set()
    errors = [future.exception(20) for future in futures]
    assert [type(error) for error in errors] == [type(None), type(None), SamplerError, type(None)]
    assert engine.stop(5)
    late = sampler_engine.Group(adapter_digest="base", prompt=ask(), n=1, seed=0)
    assert engine.submit(late).cancelled()


def test_only_loopback_is_spoken_to() -> None:
    for url in (
        "http://10.0.0.1:8761",
        "https://127.0.0.1:8761",
        "http://sampler.example:1",
        "ftp://localhost",
        "127.0.0.1",
        "http://localhost:99999",
    ):
        with pytest.raises(ConfigError, match="not a port of this machine"):
            ServerLine(url, token=TOKEN, timeout_s=1)


def test_a_taken_port_may_be_tried_again(place: Place) -> None:
    place.start()
    with pytest.raises(SamplerError, match="cannot be taken") as caught:
        LoopbackListener(place.port, token=TOKEN)
    assert (caught.value.code, caught.value.exit_status()) == ("E_PORT_TAKEN", 75)


# --- a sampler that is wrong ------------------------------------------------------------------------------------------


def test_completions_of_another_adapter_are_refused_at_once(place: Place) -> None:
    sampler = place.start()
    client = place.client()
    client.publish(make_version(place.run_dir))
    sampler.after_take = lambda completion: replace(completion, adapter_digest="base")
    with pytest.raises(DeliveryError, match="another adapter"):
        play(client)


def test_prompts_encoded_in_another_way_are_refused(place: Place) -> None:
    place.start()
    with pytest.raises(DeliveryError, match="encodes prompts in another way"):
        play(place.client(encode_prompt=lambda prompt: (*encode(prompt), 0)))


@pytest.mark.parametrize(
    "change",
    [{"token_ids": ()}, {"token_ids": (1,) * 41, "logprobs": (-0.5,) * 41}, {"logprobs": (-0.5,)}, {"logprobs": ()},
     {"token_ids": (1,), "logprobs": (float("nan"),)}, {"token_ids": (1,), "logprobs": (0.5,)}],
)  # fmt: skip
def test_completions_that_do_not_fit_together_are_refused(place: Place, change: dict[str, Any]) -> None:
    place.start(change=lambda sampler: setattr(sampler, "after_take", lambda c: replace(c, **change)))
    with pytest.raises(SamplerError, match="cannot be used") as caught:
        play(place.client())
    assert caught.value.exit_status() == 1


def test_a_failure_of_the_sampler_is_told_without_its_text(place: Place, capfd: Any) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(SECRET)

    sampler = place.start(change=lambda sampler: setattr(sampler, "before_take", fail))
    with pytest.raises(SamplerError, match="failed with RuntimeError") as caught:
        play(place.client())
    assert SECRET not in caught.value.explain()
    sampler.before_take = lambda _: None
    assert len(play(place.client())) == 5
    assert SECRET not in "".join(capfd.readouterr())


def test_a_sampler_that_fails_again_and_again_ends_the_server(place: Place) -> None:
    def fail(_: object) -> None:
        raise RuntimeError

    place.start(change=lambda sampler: setattr(sampler, "before_take", fail))
    for _ in range(sampler_engine.MAX_FAILURES):
        with pytest.raises(SamplerError, match="failed with"):
            play(place.client(), 1)
    with pytest.raises(SamplerError, match="again and again"):
        place.server.wait()
    with pytest.raises(SamplerError) as caught:
        play(place.client(timeout_s=5), 1)
    assert caught.value.code == "E_SAMPLER_AWAY"


# --- a server that dies, hangs or is another one ----------------------------------------------------------------------


def test_a_server_that_dies_while_it_writes_and_comes_back_empty_costs_nothing(place: Place) -> None:
    version = make_version(place.run_dir)
    entered, release = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        release.wait(20)

    sampler = place.start(change=lambda sampler: setattr(sampler, "before_take", hold))
    client = place.client()
    client.publish(version)

    def die_and_return() -> None:
        entered.wait(20)
        threading.Timer(0.1, release.set).start()
        place.stop()
        time.sleep(0.3)  # for a while nobody listens
        place.start()

    dying = threading.Thread(target=die_and_return)
    dying.start()
    found = play(client)
    dying.join()
    near = in_process(place, version)
    assert found == {str(i): near.sample([ask(f"{SECRET} {i}")], n=3, seed=i)[0] for i in range(5)}
    assert place.sampler is not sampler
    assert place.sampler.published[0] == version.digest


def test_a_server_that_was_restarted_between_two_requests_gets_the_adapter_again(place: Place) -> None:
    place.start()
    client, version = place.client(), make_version(place.run_dir)
    client.publish(version)
    place.stop()
    place.start()
    assert client.score([ask()], [["a"]]) == [[-1.0]]
    assert play(client)["0"][0].adapter_digest == version.digest


@pytest.mark.parametrize("use", [play, lambda client: client.score([ask()], [["a"]])])
def test_another_base_after_a_restart_is_found_at_once(place: Place, use: Callable[[ServerSampler], object]) -> None:
    place.start()
    client = place.client()
    use(client)
    place.stop()
    place.start(replace(IDENTITY, base_digest="c" * 64))
    with pytest.raises(DeliveryError, match="another base digest"):
        use(client)


OTHERS = [{"kind": "other"}, {"versions": (("fake", "2"),)}, {"max_context_tokens": 98}]


@pytest.mark.parametrize("is_adapted", [False, True])
@pytest.mark.parametrize("change", OTHERS)
def test_a_server_that_comes_back_as_another_gets_nothing_until_something_new_is_published(
    place: Place, change: dict[str, Any], is_adapted: bool
) -> None:
    place.start()
    client, version = place.client(), make_version(place.run_dir) if is_adapted else None
    client.publish(version)
    place.stop()
    sampler = place.start(replace(IDENTITY, **change))
    for use in (play, lambda client: client.sample([ask()], n=1, seed=0), lambda client: client.score([ask()], [["a"]])):
        with pytest.raises(DeliveryError, match="came back as another one") as caught:
            use(client)
        assert caught.value.code == "E_DELIVERY"
    if is_adapted:
        with pytest.raises(DeliveryError, match="came back as another one"):
            client.publish(version)  # its owner takes it for proven
    assert (sampler.calls, sampler.published) == (0, [])
    client.publish(make_version(place.run_dir, step=2))
    assert len(play(client)) == 5


def test_a_version_that_another_server_refuses_leaves_the_one_before_where_it_was(place: Place) -> None:
    place.start()
    client = place.client()
    client.publish(make_version(place.run_dir))
    place.stop()
    place.start(replace(IDENTITY, kind="other"))
    with pytest.raises(DeliveryError, match="belongs to another base"):
        client.publish(make_version(place.run_dir, step=2, base_digest="c" * 64))
    with pytest.raises(DeliveryError, match="came back as another one"):
        play(client)
    place.stop()
    place.start()
    assert len(play(client)) == 5


def test_a_job_that_comes_while_the_server_loads_waits(place: Place) -> None:
    listener = place.load()
    server = SamplerServer(StreamedSampler(place.folder), IDENTITY, place.folder)
    place.stack.callback(server.close)
    ready = threading.Timer(1.2, lambda: setattr(listener, "routes", server.routes))
    ready.start()
    assert len(play(place.client(timeout_s=0.4))) == 5
    ready.join()


def test_a_server_that_loads_again_in_the_middle_is_waited_for(place: Place) -> None:
    place.start()
    client, version = place.client(timeout_s=0.5), make_version(place.run_dir)
    client.publish(version)
    place.stop()
    listener = place.load()
    server = SamplerServer(StreamedSampler(place.folder), IDENTITY, place.folder)
    place.stack.callback(server.close)
    ready = threading.Timer(1.2, lambda: setattr(listener, "routes", server.routes))
    ready.start()
    assert play(client)["0"][0].adapter_digest == version.digest
    ready.join()


def test_a_server_that_loads_for_ever_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spice_enterprise.training.server_line.MAX_LOADING", 2)
    place.load()
    with pytest.raises(SamplerError, match=r"has been loading for 0\.6 s") as caught:
        play(place.client(timeout_s=0.3))
    assert (caught.value.code, caught.value.exit_status()) == ("E_SAMPLER_HUNG", 75)


def test_a_server_that_is_away_may_be_tried_again(place: Place) -> None:
    place.start()
    place.stop()
    client = place.client(timeout_s=0.6)
    started = time.monotonic()
    for use in (lambda: client.publish(None), lambda: play(client)):
        with pytest.raises(SamplerError, match="is away") as caught:
            use()
        assert (caught.value.code, caught.value.exit_status()) == ("E_SAMPLER_AWAY", 75)
    assert time.monotonic() - started < 10


def test_a_sampler_that_hangs_is_given_up_in_time_and_its_groups_are_dropped(place: Place) -> None:
    release, in_flight = threading.Event(), []

    def hold(groups: dict[str, Any]) -> None:
        in_flight.append(len(groups))
        release.wait(20)

    place.start(change=lambda sampler: setattr(sampler, "before_take", hold))
    client = place.client(timeout_s=0.5)
    started = time.monotonic()
    with pytest.raises(SamplerError, match=r"said nothing for 0\.5 s") as caught:
        play(client, 6)
    assert (caught.value.code, caught.value.exit_status()) == ("E_SAMPLER_HUNG", 75)
    assert time.monotonic() - started < 5
    time.sleep(1.0)  # the server sees that nobody waits
    release.set()
    assert len(play(place.client())) == 5
    assert len(in_flight) <= 7  # one of the six was in hand; the others were dropped, not written first


def reply(record: object, status: str = "200 OK", *, keeps: bool = False) -> bytes:
    body = wire.write_record(record)
    version = "1.1" if keeps else "1.0"
    return f"HTTP/{version} {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def hello(data: bytes, port: int, *, token: str = TOKEN, keeps: bool = True) -> bytes:
    theirs = re.search(rb"Spice-Nonce: (\w+)", data)
    assert theirs is not None
    about = (f"127.0.0.1:{port}", theirs[1].decode(), "0" * 64)
    return reply(wire.Hello(nonce="0" * 64, proof=proof(token, "server", *about)), keeps=keeps)


@contextmanager
def stub(replies: Callable[[bytes], bytes | None], *, keeps: bool = True) -> Iterator[int]:
    """A listener that knows the token and sends what `replies` makes of each request; None hangs, unless it hangs up first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        ended, kept = threading.Event(), []

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.settimeout(5)
                connection.sendall(hello(connection.recv(65536), listener.getsockname()[1], keeps=keeps))
                reply = replies(connection.recv(65536))
                if reply is None:
                    kept.append(connection)
                    continue
                with connection, suppress(OSError):
                    connection.sendall(reply)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()
            for connection in kept:
                connection.close()


HEALTH = reply(wire.Health(identity=IDENTITY, adapter_digest="base", held=()))


def answering(sampled: bytes | None) -> Callable[[bytes], bytes | None]:
    return lambda request: HEALTH if request.startswith(b"GET") else sampled


@pytest.mark.parametrize(
    "sampled",
    [
        b"SSH-2.0-other\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.0 302 Found\r\nLocation: http://203.0.113.1/\r\nContent-Length: 0\r\n\r\n",
        f"HTTP/1.0 200 OK\r\nContent-Length: {wire.MAX_REPLY_BYTES + 1}\r\n\r\n".encode(),
        reply(SampleReply(groups=())),
        reply(SampleReply(groups=((),))),
        reply({"groups": [[{"token_ids": "all"}]]}),
        reply({"groups": 3}),
    ],
)
def test_what_is_no_answer_is_a_sampler_error_at_once(place: Place, sampled: bytes) -> None:
    with stub(answering(sampled)) as place.port:
        started = time.monotonic()
        with pytest.raises(SamplerError) as caught:
            play(place.client(timeout_s=20), 1)
        assert caught.value.exit_status() == 1
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("sampled", [b"", b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{", b"HTTP/1.0 200"])
def test_a_server_that_dies_at_each_request_is_not_asked_for_ever(place: Place, sampled: bytes) -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes | None:
        asked.append(request[:4])
        return HEALTH if request.startswith(b"GET") else sampled

    with stub(answer) as place.port, pytest.raises(SamplerError) as caught:
        play(place.client(), 1)
    assert caught.value.code in ("E_SAMPLER_AWAY", "E_SAMPLER")
    assert asked.count(b"POST") <= MAX_ATTEMPTS


def test_a_process_that_is_there_but_never_answers_counts_as_hung(place: Place) -> None:
    with stub(lambda _: None) as place.port:
        for timeout_s in (0.2, 0.4):
            started = time.monotonic()
            with pytest.raises(SamplerError, match="said nothing") as caught:
                place.client(timeout_s=timeout_s).publish(None)
            assert caught.value.code == "E_SAMPLER_HUNG"
            assert timeout_s <= time.monotonic() - started < timeout_s + 5


def test_no_more_connections_than_there_is_room_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_http, "MAX_CONNECTIONS", 2)
    place.start()
    idle = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(2)]
    time.sleep(0.2)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        place.request("GET", wire.HEALTH)
    for connection in idle:
        connection.close()
    assert play(place.client(), 1)


# --- its folder -------------------------------------------------------------------------------------------------------


def test_the_folder_is_private_swept_and_removed(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    left = parent / f"spice-sampler-{os.getuid()}-7"
    (left / "adapters").mkdir(parents=True)
    with private_folder(parent, 7) as folder:
        assert (folder, folder.stat().st_mode & 0o777, list(folder.iterdir())) == (left, 0o700, [])
        (folder / "adapters").mkdir()
    assert list(parent.iterdir()) == []


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "kept").touch()
    (tmp_path / f"spice-sampler-{os.getuid()}-7").symlink_to(target)
    with pytest.raises(SamplerError, match="somebody else"), private_folder(tmp_path, 7):
        pass
    assert (target / "kept").exists()
