"""Prompts as token ids: the model's own chat template, with every message as plain text.

In: `Prompt`s; the tokenizer and template in a base model's directory.
Out: token ids; text from token ids; stop tokens.
Refuses: a template that does not place each message exactly once.
Not here: what the messages say (the self-play prompts).

Documents are hostile: one may hold `<|im_start|>` to open a turn of its own. So the template is rendered around
place-holders, control tokens are recognised in the template's own text only, and messages are encoded apart, as text.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from spice_enterprise.errors import ConfigError
from spice_enterprise.records import Message, Prompt
from spice_enterprise.training.base_model import read_chat_template
from spice_enterprise.training.tokens import TOKENIZER_FILE, read_tokenizer

_PLACE: Final = re.compile(r"\ue000(\d+)\ue001")


class ChatTokenizer:
    """Turns prompts into token ids and completions back into text."""

    def __init__(self, path: Path) -> None:
        """Read tokenizer, template and stop tokens from a base model's directory. Raises `ConfigError`."""
        self._template = read_chat_template(path)
        self._control = read_tokenizer(path)
        self._plain = _without_control_tokens(path)
        self._names = _special_names(path)
        self.stop_ids: frozenset[int] = _stop_ids(path, self._control, self._names)
        """Ids that end a turn."""
        named = self._control.token_to_id(self._names.get("eos_token", ""))
        self._end_of_turn: int = named if named in self.stop_ids else min(self.stop_ids, default=0)
        if not self.stop_ids:
            raise ConfigError("no end-of-turn token", code="E_MODEL_TOKENIZER", hint="set eos_token_id in generation_config.json")

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids of the rendered conversation, the assistant's opening and the prompt's prefill."""
        ids: list[int] = []
        for is_message, text in self._segments(prompt.messages):
            ids += self.encode_text(text) if is_message else self._control.encode(text, add_special_tokens=False).ids
        return (*ids, *self.encode_text(prompt.prefill))

    def encode_example(self, prompt: Prompt, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of a prompt, and those of `text` as a whole turn after it: with the token that ends a turn."""
        return self.encode_prompt(prompt), (*self.encode_text(text), self._end_of_turn)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of `text`, with control tokens written out in it as the plain characters they are."""
        return list(self._plain.encode(text, add_special_tokens=False).ids) if text else []

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids` without control tokens."""
        return str(self._control.decode(list(token_ids), skip_special_tokens=True))

    def decode_until(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """Return the text of `token_ids` up to the first of the strings `stop` in it."""
        text = self.decode(token_ids)
        ends = [place for each in stop if (place := text.find(each)) >= 0]
        return text[: min(ends)] if ends else text

    def _segments(self, messages: Sequence[Message]) -> list[tuple[bool, str]]:
        """Return the rendered conversation as (is it a message, text), in order."""
        marked = [{"role": m.speaker, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        names: dict[str, Any] = dict(self._names)
        rendered = render_jinja_template([marked], chat_template=self._template, add_generation_prompt=True, **names)[0][0]
        parts = _PLACE.split(rendered)
        if [int(number) for number in parts[1::2]] != list(range(len(messages))):
            raise ConfigError(
                "the chat template does not place each message once, in order",
                code="E_MODEL_TEMPLATE",
                hint="use a model whose template takes system, user and assistant turns",
            )
        return [
            (bool(i % 2), messages[int(part)].content.strip() if i % 2 else part) for i, part in enumerate(parts) if i % 2 or part
        ]


def _without_control_tokens(path: Path) -> Tokenizer:
    """Return a tokenizer that takes no added token for one: `<tool_call>` is a control token too, though not marked special.

    Added runs of blanks stay: they are ordinary text that some vocabularies keep there.
    """
    data = json.loads((path / TOKENIZER_FILE).read_text(encoding="utf-8"))
    for token in data.get("added_tokens", []):
        token["special"] = bool(token["special"]) or not token["content"].isspace()
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _special_names(path: Path) -> dict[str, str]:
    """Return `bos_token`, `eos_token`, ... as the template may use them."""
    names = {}
    for key, value in _read(path / "tokenizer_config.json").items():
        text = value.get("content") if isinstance(value, dict) else value
        if key in ("bos_token", "eos_token", "unk_token", "pad_token") and isinstance(text, str):
            names[key] = text
    return names


def _stop_ids(path: Path, tokenizer: Tokenizer, names: dict[str, str]) -> frozenset[int]:
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        value = _read(path / name).get("eos_token_id")
        found |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    by_name = tokenizer.token_to_id(names.get("eos_token", ""))
    return frozenset(found | ({by_name} if by_name is not None else set()))


def _read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data if isinstance(data, dict) else {}
