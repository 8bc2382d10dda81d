"""What a sampler server refuses to hold, and the room that its adapters need."""

import pytest

from spice_enterprise.config import build_config
from spice_enterprise.errors import ConfigError

pytestmark = pytest.mark.torch


def settings(base, **changes):
    values = {"corpus": ".", "base_model": str(base.path), **changes}
    return build_config(values, {}, where="test")


@pytest.mark.parametrize(
    ("kind", "sampler", "training", "code"),
    [
        ("hf", {"weights": "nf4"}, {}, "E_SAMPLER_WEIGHTS"),
        ("hf", {"weights": "shared"}, {}, "E_SAMPLER_WEIGHTS"),
        ("vllm", {"weights": "shared"}, {}, "E_SAMPLER_WEIGHTS"),
        ("vllm", {"weights": "nf4"}, {"quantization": "none"}, "E_SAMPLER_WEIGHTS"),
        ("hf", {"weights": "twin"}, {"quantization": "none"}, "E_SAMPLER_WEIGHTS"),
        ("vllm", {}, {"lora_targets": ("lm_head",)}, "E_LORA_TARGETS"),
    ],
)
def test_what_a_server_cannot_serve_is_refused_before_it_is_loaded(tiny_base, kind, sampler, training, code):
    from spice_enterprise.training.served_sampler import find_base

    with pytest.raises(ConfigError) as caught:
        find_base(kind, settings(tiny_base, sampler={"kind": "server", **sampler}, training=training))
    assert caught.value.code == code


@pytest.mark.parametrize("sampler", [{}, {"weights": "twin"}, {"dtype": "float32"}, {"max_context_tokens": 64}])
@pytest.mark.parametrize("kind", ["hf", "vllm"])
def test_what_it_can_serve_is_taken_whatever_kind_of_sampler_a_job_names(tiny_base, kind, sampler):
    from spice_enterprise.training.served_sampler import find_base

    for named in ("server", "hf"):
        assert find_base(kind, settings(tiny_base, sampler={"kind": named, **sampler})).digest == tiny_base.digest


def test_the_room_for_adapters_follows_the_base_and_the_rank(tiny_base, world):
    from spice_enterprise.training.sampler_engine import MAX_HELD
    from spice_enterprise.training.served_sampler import served_bytes
    from spice_enterprise.training.vllm_engine import HELD_ADAPTERS

    version = world.trainer.start()
    weights = next(entry.size_bytes for entry in version.manifest if entry.path.endswith(".safetensors"))
    copies = MAX_HELD + 1 + HELD_ADAPTERS
    assert served_bytes(tiny_base, 4) == pytest.approx(copies * weights, rel=0.25)  # the file has a header too
    assert served_bytes(tiny_base, 8) == 2 * served_bytes(tiny_base, 4)
