"""The server with vLLM behind it, in a process of its own: delivered adapters, log-probabilities, the end."""

import json
import os
import signal
import subprocess
import sys

import pytest
from pytest_socket import enable_socket

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture
def server(world, tmp_path, no_network):
    enable_socket()
    command = [
        sys.executable, "-m", "spice_enterprise", "serve-sampler", "--kind", "vllm", "--base-model", str(world.base.path),
        "--port", "0", "--token-file", str(tmp_path / "sampler.token"), "--workspace", str(tmp_path / "runs"), "--json",
        "--set", "training.lora_rank=8", "--set", "training.lora_alpha=16", "--set", "training.compute_dtype=float32",
        "--set", "sampler.max_context_tokens=512", "--set", "sampler.kv_cache_mib=192",
        "--set", f"sampler.adapter_dir={tmp_path / 'served'}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    said = ""
    for line in process.stdout:
        said += line
        if line == "}\n":
            break
    try:
        yield process, json.loads(said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        process.stdout.close()


def test_vllm_behind_a_server_writes_under_the_delivered_adapter(server, world, tools, tmp_path):
    from spice_enterprise.training.server_line import ServerLine
    from spice_enterprise.training.server_sampler import ServerSampler
    from spice_enterprise.training.server_token import read_token

    process, ready = server
    assert (ready["identity"]["kind"], ready["identity"]["weights"], ready["identity"]["dtype"]) == ("vllm", "twin", "float32")
    line = ServerLine(ready["url"], token=read_token(tmp_path / "sampler.token"), timeout_s=200.0)
    client = ServerSampler(
        line,
        base_digest=world.base.digest,
        dtype="float32",
        weights="twin",
        encode_prompt=world.tokenizer.encode_prompt,
        run_dir=world.run_dir,
    )
    prompts = [tools.ask(f"Name {i} things that are {colour}.") for i, colour in enumerate(("red", "green", "blue"))]
    for version in (None, world.version(1), world.version(2), world.version(1)):
        client.publish(version)
        digest = "base" if version is None else version.digest
        found = {}
        with client.stream() as stream:
            for i, prompt in enumerate(prompts):
                stream.put(str(i), prompt, n=4, seed=i)
            while done := stream.take():
                found |= dict(done)
        completions = [completion for group in found.values() for completion in group]
        assert len(completions) == 12
        assert {completion.adapter_digest for completion in completions} == {digest}
        assert world.gap(version, completions) < 1e-3
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert list((tmp_path / "served").iterdir()) == []
