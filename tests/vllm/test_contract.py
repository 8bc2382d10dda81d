"""The names and rules of vLLM that the engine relies on; what needs a GPU is checked here by its signature only."""

import dataclasses
import inspect
from typing import get_args

import pytest

from spice_enterprise.training.settings_check import SERVED_RANKS

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("world")]  # the engine imports the library without its warnings


def test_the_ranks_are_the_librarys():
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == SERVED_RANKS


def test_the_engine_has_the_calls_that_park_it():
    from vllm.v1.engine.llm_engine import LLMEngine

    assert inspect.signature(LLMEngine.sleep).parameters["level"].annotation is int
    assert list(inspect.signature(LLMEngine.release_kv_cache_memory).parameters) == ["self"]
    assert list(inspect.signature(LLMEngine.wake_up).parameters) == ["self", "tags"]


def test_the_engine_has_the_calls_that_serve():
    from vllm import EngineArgs, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.llm_engine import LLMEngine

    wanted = {"request_id", "prompt", "params", "lora_request"}
    assert wanted <= set(inspect.signature(LLMEngine.add_request).parameters)
    assert list(inspect.signature(LLMEngine.add_lora).parameters) == ["self", "lora_request"]
    assert list(inspect.signature(LLMEngine.remove_lora).parameters) == ["self", "lora_id"]
    assert {"kv_cache_memory_bytes", "lora_target_modules", "max_cpu_loras", "logprobs_mode", "enable_sleep_mode"} <= {
        field.name for field in dataclasses.fields(EngineArgs)
    }
    assert {"n", "seed", "stop_token_ids", "ignore_eos", "prompt_logprobs", "output_kind"} <= set(
        inspect.signature(SamplingParams).parameters
    )
    request = LoRARequest("v1-abc", 1, "/nowhere")
    assert (request.lora_name, request.lora_int_id, request.load_inplace) == ("v1-abc", 1, False)


def test_children_of_a_group_have_consecutive_seeds_whatever_their_number():
    from vllm import SamplingParams
    from vllm.v1.engine.parallel_sampling import ParentRequest

    for n in (2, 5):
        request = type("Request", (), {"request_id": "r-1", "external_req_id": "r", "params": SamplingParams(n=n, seed=40)})
        parent = ParentRequest(request)
        assert [parent.get_child_info(j)[1].seed for j in range(n)] == [40 + j for j in range(n)]
