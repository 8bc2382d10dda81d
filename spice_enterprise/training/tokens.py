"""Counting tokens without loading a model.

In: the directory of a base model.
Out: a function from text to its number of tokens.
Refuses: a directory without `tokenizer.json`.
Not here: chat templates (`chat.py`). This module stays light: ingestion imports it in a process that has no torch.
"""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from spice_enterprise.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"


def load_tokenizer_only(path: Path) -> Callable[[str], int]:
    """Return `count_tokens(text)` of the model in `path`.

    Control tokens written out in a text count as the plain characters they are. Raises `ConfigError` (E_MODEL_TOKENIZER).
    """
    tokenizer = read_tokenizer(path)
    tokenizer.encode_special_tokens = True

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count_tokens


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the fast tokenizer of the model in `path`. Raises `ConfigError` (E_MODEL_TOKENIZER)."""
    file = path / TOKENIZER_FILE
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every kind of bad file
        raise ConfigError(
            f"{file}: not a readable fast tokenizer ({type(error).__name__})",
            code="E_MODEL_TOKENIZER",
            hint="the base model needs a tokenizer.json; convert the tokenizer with transformers first",
        ) from None
