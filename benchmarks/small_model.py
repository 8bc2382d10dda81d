"""A random model that is quick enough for CI: the embedded model's vocabulary on six narrow layers.

In: the embedded model's directory, for its tokenizer and chat template.
Out: a directory that both sides load.
Refuses: nothing.
Not here: anything a figure for people is measured on; its head weighs far more than a real model's.
"""

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

COPIED: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_small_model(source: Path, target: Path) -> Path:
    """Write it to `target` and return that."""
    vocabulary = json.loads((source / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2,
    )  # fmt: skip
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(target)
    for name in COPIED:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    return target
