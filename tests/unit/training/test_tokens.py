"""Counting tokens with the tokenizer alone."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from spice_enterprise.errors import ConfigError
from spice_enterprise.training.tokens import load_tokenizer_only


def make_tokenizer(path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.save(str(path / "tokenizer.json"))


def test_counts_bytes_and_takes_a_control_token_in_text_as_text(tmp_path):
    make_tokenizer(tmp_path)
    count = load_tokenizer_only(tmp_path)
    assert count("") == 0
    assert count("four") == 4
    assert count("<|im_start|>") == 12  # not 1: a document cannot open a turn


@pytest.mark.parametrize("content", [None, "{", json.dumps({"model": "none"})])
def test_a_bad_tokenizer_is_a_config_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="not a readable fast tokenizer") as caught:
        load_tokenizer_only(tmp_path)
    assert caught.value.code == "E_MODEL_TOKENIZER"
