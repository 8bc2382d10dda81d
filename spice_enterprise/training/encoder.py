"""A local transformers encoder (such as MiniLM) as an `Embedder`: the mean of its last layer over the tokens.

In: a directory with config, safetensors weights and tokenizer files.
Out: one vector of length 1 per text.
Refuses: a directory that is missing, holds code or pickles, or whose model does not encode text (E_EMBEDDER).
Not here: the default, which needs no files (`selfplay/embedding.py`). Nothing is downloaded, and no code of a model runs.

Texts are encoded one by one, in float32 on the CPU: the vector of a text must not depend on what it is encoded with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from spice_enterprise.errors import ConfigError
from spice_enterprise.training.base_model import check_data_only
from spice_enterprise.training.tokens import TOKENIZER_FILE

MAX_TOKENS: Final = 256
_POSITIONS_KEPT_FREE: Final = 2
"""Some encoders number their positions from 2."""


class EncoderEmbedder:
    """Implements `protocols.Embedder` on the model in a directory."""

    def __init__(self, directory: Path) -> None:
        """Check and load the model. Raises `ConfigError` E_EMBEDDER."""
        self._max_tokens = _checked(directory)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library's own
        where: Any = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, use_fast=True, **where)
            model: Any = AutoModel.from_pretrained(directory, use_safetensors=True, dtype=torch.float32, **where)
            self._model = model.to("cpu").eval().requires_grad_(requires_grad=False)
            self.embed(["probe"])
        except Exception as error:  # noqa: BLE001 - whatever the library makes of an odd directory, it is no encoder
            raise _refusal(f"{directory.name}: no text encoder can be loaded from it ({type(error).__name__})") from None

    def embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """Return one vector of length 1 per text; of a long text the first `MAX_TOKENS` tokens count."""
        return [self._vector(text) for text in texts]

    @torch.inference_mode()
    def _vector(self, text: str) -> tuple[float, ...]:
        tokens = self._tokenizer(text, truncation=True, max_length=self._max_tokens, return_tensors="pt")
        states = self._model(**tokens).last_hidden_state[0]  # [token, hidden]; one text, so there is no padding
        mean = states.to(torch.float64).mean(dim=0)
        length = mean.norm()
        if not 0.0 < float(length) < float("inf"):
            raise ValueError("a vector without a direction")
        return tuple((mean / length).tolist())


def _checked(directory: Path) -> int:
    """Return how many tokens the model in `directory` takes at most."""
    if not directory.is_dir():
        raise _refusal(f"{directory.name}: no such directory")
    try:
        config = check_data_only(directory)
    except ConfigError as error:
        raise ConfigError(error.message, code="E_EMBEDDER", hint=error.hint) from None
    if not (directory / TOKENIZER_FILE).is_file():  # the library would make up an empty one
        raise _refusal(f"{directory.name}: no {TOKENIZER_FILE}")
    if config.get("is_encoder_decoder"):
        raise _refusal(f"{directory.name}: an encoder-decoder is no text encoder")
    positions = config.get("max_position_embeddings")
    return min(MAX_TOKENS, positions - _POSITIONS_KEPT_FREE) if isinstance(positions, int) else MAX_TOKENS


def _refusal(message: str) -> ConfigError:
    hint = "set selfplay.embedder to `hashed`, or to the local directory of an encoder such as all-MiniLM-L6-v2"
    return ConfigError(message, code="E_EMBEDDER", hint=hint)
