"""A real server process on a tiny model: the same completions as in this process, through kills and restarts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pytest_socket import enable_socket

from spice_enterprise.errors import DeliveryError, SamplerError
from spice_enterprise.training import wire

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def loopback(no_network):
    enable_socket()


class Server:
    """The process that a user starts."""

    def __init__(self, base, home: Path, *, rank: int = 4) -> None:
        self.home = home
        self.base = base
        self.rank = rank
        self.port = 0
        self.token_file = home / "sampler.token"
        self.served = home / "served"

    def start(self) -> "Server":
        command = [
            sys.executable, "-m", "spice_enterprise", "serve-sampler", "--kind", "hf", "--base-model", str(self.base.path),
            "--port", str(self.port), "--token-file", str(self.token_file), "--workspace", str(self.home / "runs"), "--json",
            "--set", f"training.lora_rank={self.rank}", "--set", "training.lora_alpha=4",
            "--set", "training.compute_dtype=float32", "--set", f"sampler.adapter_dir={self.served}",
        ]  # fmt: skip
        with (self.home / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        said = ""
        for line in self.process.stdout:
            said += line
            if line == "}\n":
                break
        self.ready = json.loads(said) if said else None
        if self.ready and "url" in self.ready:
            self.port = int(self.ready["url"].rpartition(":")[2])
        return self

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server(tiny_base, tmp_path_factory):
    server = Server(tiny_base, tmp_path_factory.mktemp("server")).start()
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.end(signal.SIGKILL)


def connect(server, run_dir, *, timeout_s=60.0):
    from spice_enterprise.training.chat import ChatTokenizer
    from spice_enterprise.training.server_line import ServerLine
    from spice_enterprise.training.server_sampler import ServerSampler
    from spice_enterprise.training.server_token import read_token

    line = ServerLine(f"http://127.0.0.1:{server.port}", token=read_token(server.token_file), timeout_s=timeout_s)
    encode = ChatTokenizer(server.base.path).encode_prompt
    wanted = {"base_digest": server.base.digest, "dtype": "float32", "weights": "twin"}
    return ServerSampler(line, **wanted, encode_prompt=encode, run_dir=run_dir)


def same(ours, theirs, tolerance=1e-6):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert [c.token_ids for c in mine] == [c.token_ids for c in other]
        assert [(c.prompt_token_ids, c.text, c.stop_reason, c.adapter_digest) for c in mine] == [
            (c.prompt_token_ids, c.text, c.stop_reason, c.adapter_digest) for c in other
        ]
        for one, two in zip(mine, other, strict=True):
            assert one.logprobs == pytest.approx(two.logprobs, abs=tolerance)


def streamed(sampler, prompts, n):
    found = {}
    with sampler.stream() as stream:
        for i, prompt in enumerate(prompts):
            stream.put(str(i), prompt, n=n, seed=50 + i)
        while done := stream.take():
            found |= dict(done)
    return [found[str(i)] for i in range(len(prompts))]


def test_server_and_process_write_the_same(server, world, tools):
    first = world.trainer.start()
    _, second = world.step(first, 1)
    client = connect(server, world.run_dir)
    prompts = [tools.ask("question" * (i + 1), 12, temperature=t) for i, t in enumerate((1.0, 0.7, 0.0, 1.0))]
    for version in (None, second, first, second):
        client.publish(version)
        world.sampler.publish(version)
        same(client.sample(prompts, n=3, seed=9), world.sampler.sample(prompts, n=3, seed=9))
        alone = [world.sampler.sample([p], n=3, seed=50 + i)[0] for i, p in enumerate(prompts)]
        same(streamed(client, prompts, 3), alone, tolerance=1e-5)  # other neighbours, other rounding
        scored = client.score(prompts, [["yes", "no"]] * 4)
        for ours, theirs in zip(scored, world.sampler.score(prompts, [["yes", "no"]] * 4), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_step_is_learned_from_what_the_server_wrote(server, make_world, tmp_path):
    near, far = make_world(tmp_path / "near"), make_world(tmp_path / "far")
    client = connect(server, far.run_dir)
    versions = []
    for world, sampler in ((near, near.sampler), (far, client)):
        version = world.trainer.start()
        for number in (1, 2):
            sampler.publish(version)
            step = world.trainer.update(world.play(version, number, sampler=sampler), number=number)
            assert step.is_applied
            assert step.gap_nats_per_token < 1e-4
            version = world.trainer.save(step)
        versions.append(version.digest)
    assert versions[0] == versions[1]


def test_a_prompt_too_long_for_the_model_is_refused_by_code(server, world, tools):
    client = connect(server, world.run_dir)
    with pytest.raises(SamplerError) as caught:
        client.sample([tools.ask("x" * 600, 8)], n=1, seed=0)
    assert caught.value.code == "E_CONTEXT"


def test_an_adapter_of_another_rank_is_refused(server, make_world, tmp_path):
    world = make_world(tmp_path / "other", lora_rank=8)
    client = connect(server, world.run_dir)
    with pytest.raises(DeliveryError) as caught:
        client.publish(world.trainer.start())
    assert caught.value.code == "E_ADAPTER"


def test_the_server_says_who_it_is_and_nothing_else(server):
    identity = wire.read_record(wire.Identity, json.dumps(server.ready["identity"]).encode())
    assert (identity.kind, identity.base_digest, identity.dtype, identity.weights) == (
        "hf",
        server.base.digest,
        "float32",
        "twin",
    )
    assert identity.max_context_tokens == 512
    assert dict(identity.versions).keys() >= {"torch", "transformers", "peft", "spice-enterprise"}
    token = server.token_file.read_text().strip()
    assert server.token_file.stat().st_mode & 0o777 == 0o600
    assert token not in json.dumps(server.ready)
    said = (server.home / "stderr").read_text()
    assert token not in said
    assert "question" not in said  # what every prompt here holds
    assert "Traceback" not in said


@pytest.mark.slow
def test_killed_while_it_writes_and_started_again_it_writes_the_same(tiny_base, make_world, tmp_path, tools):
    server = Server(tiny_base, tmp_path).start()
    try:
        world = make_world(tmp_path / "run")
        version = world.step(world.trainer.start(), 1)[1]
        client = connect(server, world.run_dir, timeout_s=250.0)
        client.publish(version)
        prompts = [tools.ask("question" * (i % 5), 300) for i in range(8)]
        killed = threading.Event()

        def kill_and_start() -> None:
            time.sleep(0.15)
            server.end(signal.SIGKILL)
            killed.set()
            server.start()

        killer = threading.Thread(target=kill_and_start)
        killer.start()
        found = streamed(client, prompts, 8)
        assert killed.is_set(), "it was done before it was killed"
        killer.join()
        world.sampler.publish(version)
        same(found, [world.sampler.sample([p], n=8, seed=50 + i)[0] for i, p in enumerate(prompts)], tolerance=1e-5)
        busy = connect(server, world.run_dir)
        with busy.stream() as stream:
            stream.put("k", tools.ask("x", 400), n=64, seed=0)
            time.sleep(0.3)
            started = time.monotonic()
            assert server.end(signal.SIGTERM) == 0
            assert time.monotonic() - started < 20
        assert list(server.served.iterdir()) == []
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


def test_a_taken_port_is_told_before_anything_is_loaded(server, tiny_base, tmp_path):
    second = Server(tiny_base, tmp_path)
    second.port = server.port
    second.start()
    assert second.process.wait(30) == 75
    assert second.ready["error"]["code"] == "E_PORT_TAKEN"
    second.process.stdout.close()
    assert not second.served.exists()
