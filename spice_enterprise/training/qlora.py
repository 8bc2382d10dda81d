"""The learner: a frozen NF4 base with one fp32 LoRA adapter on its linear maps.

In: a `BaseModel` on disk, the training section of the config, a seed.
Out: hidden states and the head, with the adapter on or off; the adapter as files.
Refuses: targets that are not there; adapter files with foreign, missing, misshapen or non-finite tensors, or not in fp32.
Not here: merging. An adapter is never added into 4-bit weights: rounding would lose the adapter and harm the base.

The weights are quantised layer by layer. Where 4-bit kernels are slow (`dequantise`: on CPUs) each layer then holds
its NF4 weights written out, which is the same function: what a value is was decided by the quantiser.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import bitsandbytes.functional as bnb_functional
import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from spice_enterprise.config import TrainingConfig
from spice_enterprise.errors import ConfigError, IntegrityError
from spice_enterprise.records import canonical_json
from spice_enterprise.seeding import derive
from spice_enterprise.training import attention
from spice_enterprise.training.base_model import BaseModel
from spice_enterprise.training.cpu_linear import use_frozen_linears
from spice_enterprise.training.packing import PackedBatch

WEIGHTS_FILE: Final = "adapter_model.safetensors"
SETTINGS_FILE: Final = "adapter_config.json"
UNSAVED: Final = "unsaved"


class LearnerModel:
    """The base and its adapter, shared by the trainer and, in mode `hf`, the sampler.

    `adapter_digest` says which saved version the weights are right now; `unsaved` after an update that is not saved yet.
    The module stays in training mode: with dropout 0 nothing differs, and 4-bit layers repack themselves otherwise.
    """

    def __init__(self, module: Any, *, base: BaseModel, settings: bytes) -> None:
        self._module = module
        self._causal = module.get_base_model()
        self._settings = settings
        self.base = base
        self.adapter_digest = UNSAVED
        self.parameters: Mapping[str, nn.Parameter] = _adapter_parameters(module)
        """Trainable tensors by their name in the adapter file, sorted."""

    @classmethod
    def load(cls, base: BaseModel, config: TrainingConfig, *, seed: int) -> "LearnerModel":
        """Load, quantise and attach a fresh adapter (B = 0) whose A depends on `seed` alone.

        Raises `ConfigError` (E_LORA_TARGETS) when `lora_targets` names what is not there or may not be adapted.
        """
        device, dtype = pick_device(), pick_compute_dtype(config.compute_dtype)
        causal = _load_base(base.path, dtype)
        targets = list(choose_targets(causal, config.lora_targets))
        if config.quantization == "nf4":
            is_written_out = config.dequantise == "always" or (config.dequantise == "auto" and device.type != "cuda")
            quantise_linears(causal, device=packing_device(device), is_written_out=is_written_out)
        causal.to(device)
        use_frozen_linears(causal)
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=targets)
        with torch.random.fork_rng(devices=[]):  # the library draws its own start, which is overwritten below
            module = get_peft_model(causal, lora)
        learner = cls(module.train(), base=base, settings=_adapter_settings(module, base, config))
        learner.draw_adapter(seed)
        return learner

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @property
    def compute_dtype(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.head_weight.dtype).removeprefix("torch.")

    @property
    def head_weight(self) -> Tensor:
        """The frozen output head, [vocabulary, hidden]."""
        weight: Tensor = self._causal.get_output_embeddings().weight
        return weight

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one position's keys and values take over all layers."""
        shape = self._causal.config
        head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        return int(2 * shape.num_hidden_layers * shape.num_key_value_heads * head_dim * self.head_weight.element_size())

    @property
    def max_context_tokens(self) -> int:
        """Most positions the model was made for."""
        return int(self._causal.config.max_position_embeddings)

    def hidden_states(self, token_ids: Tensor, **rest: Any) -> Any:
        """Run the decoder without its head; returns the library's output (`last_hidden_state`, `past_key_values`)."""
        return self._causal.model(input_ids=token_ids, **rest)

    def completion_states(self, batch: PackedBatch) -> Tensor:
        """Return the states [N, hidden] that predict the completion tokens of packed rows."""
        output = self.hidden_states(
            batch.token_ids,
            position_ids=batch.positions,
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),  # 4-D: the library makes none
            packed_rows=batch.rows,
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state.flatten(0, 1).index_select(0, batch.heads)
        return states

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Within this block the adapter is switched off: the frozen base speaks."""
        with self._module.disable_adapter():
            yield

    @contextmanager
    def spare_activations(self, *, is_on: bool) -> Iterator[None]:
        """Within this block recompute layers in the backward pass instead of keeping them (large models on a GPU)."""
        if is_on:
            self._causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            yield
        finally:
            if is_on:
                self._causal.gradient_checkpointing_disable()

    def round_base(self, dtype: torch.dtype) -> None:
        """Hold and compute everything but the adapter in `dtype` from now on."""
        for parameter in self._causal.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        self._causal.config.dtype = dtype

    def draw_adapter(self, seed: int) -> None:
        """Draw A uniformly within 1/sqrt(inputs), each tensor from its own stream, and set B to zero."""
        for name, parameter in self.parameters.items():
            parameter.data = _start_value(name, parameter, seed).to(parameter.device)
        self.adapter_digest = UNSAVED

    def adapter_files(self) -> dict[str, bytes]:
        """Return the adapter as files: fp32 safetensors, and the settings PEFT and vLLM read."""
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters.items()}
        return {WEIGHTS_FILE: save_tensors(tensors, metadata={"format": "pt"}), SETTINGS_FILE: self._settings}

    def load_adapter(self, files: Mapping[str, bytes], *, digest: str) -> None:
        """Replace the adapter by saved files whose digest was verified. Raises `IntegrityError` (E_ADAPTER), changing nothing."""
        if files.get(SETTINGS_FILE) != self._settings:
            raise _bad_adapter("adapter_config.json is not the one of this job (rank, alpha, targets or base differ)")
        tensors = load_tensors(files[WEIGHTS_FILE])
        _check_tensors(tensors, self.parameters)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
        self.adapter_digest = digest


def pick_device() -> torch.device:
    """Return CUDA where there is one, else an Apple GPU (MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def packing_device(device: torch.device) -> torch.device:
    """Return where weights for `device` are packed: 4-bit kernels are for CUDA and CPUs, and a twin must be packed alike."""
    return device if device.type == "cuda" else torch.device("cpu")


def pick_compute_dtype(setting: str) -> torch.dtype:
    """Return the dtype of activations; `auto` takes float32 on a CPU.

    Some CPUs multiply bfloat16 natively, but there sampler and learner were 0.07 nats per token apart: no proof of delivery.
    """
    if setting == "auto":
        return torch.float32 if pick_device().type == "cpu" else torch.bfloat16
    return torch.bfloat16 if setting == "bfloat16" else torch.float32


def choose_targets(model: nn.Module, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the linear maps that get an adapter, sorted; `("all-linear",)` is all but the head.

    Raises `ConfigError` (E_LORA_TARGETS) with the names there are. vLLM serves no adapter on head or embeddings.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]  # a method of every causal model
    linears = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }
    if tuple(wanted) == ("all-linear",):
        return tuple(sorted(linears))
    unknown = sorted(set(wanted) - linears)
    if unknown or not wanted:
        named = ", ".join(name[:40] for name in unknown[:8]) or "nothing"
        raise ConfigError(
            f"training.lora_targets names {named}, which cannot be adapted in this model",
            code="E_LORA_TARGETS",
            hint=f"choose from {', '.join(sorted(linears))}, or all-linear alone",
        )
    return tuple(sorted(set(wanted)))


def quantise_linears(model: nn.Module, *, device: torch.device, is_written_out: bool) -> None:
    """Replace the weights of every linear map but the head by NF4 with double quantisation, one layer at a time.

    Written out, the layers stay `nn.Linear` and hold the values NF4 stands for; else they become `Linear4bit`.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]  # a method of every causal model
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            packed = _pack(module.weight.data, device)
            if is_written_out:
                values = bnb_functional.dequantize_4bit(packed.data, packed.quant_state)
                module.weight.data = values.to(module.weight.dtype)
            else:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], _four_bit(module, packed, device))
    if not is_written_out:
        model.is_loaded_in_4bit = True  # type: ignore[assignment]  # PEFT looks for this flag


def _pack(weight: Tensor, device: torch.device) -> Any:
    packed: Any = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
    return packed.to(device)


def _four_bit(linear: nn.Linear, packed: Any, device: torch.device) -> Any:
    make: Any = Linear4bit
    layer = make(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    layer.weight, packed.module = packed, layer
    layer.quant_state = packed.quant_state
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data.to(device), requires_grad=False)
    return layer


def _load_base(path: Path, dtype: torch.dtype) -> Any:
    attention.register()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library's own
    model = AutoModelForCausalLM.from_pretrained(
        str(path),
        dtype=dtype,
        attn_implementation=attention.ATTENTION,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.requires_grad_(requires_grad=False)
    model.config.attention_dropout = 0.0
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    return model


def _adapter_parameters(module: Any) -> dict[str, nn.Parameter]:
    found = {name.replace(".default.", "."): p for name, p in module.named_parameters() if p.requires_grad}
    wrong = [name for name, parameter in found.items() if parameter.dtype != torch.float32]
    if wrong:
        raise _bad_adapter(f"{len(wrong)} adapter tensors are not float32")
    return dict(sorted(found.items()))


def _start_value(name: str, parameter: nn.Parameter, seed: int) -> Tensor:
    if "lora_B" in name:
        return torch.zeros(parameter.shape)
    generator = torch.Generator().manual_seed(derive(seed, "lora", name))
    bound = 1.0 / math.sqrt(parameter.shape[1])
    return (torch.rand(parameter.shape, generator=generator) * 2.0 - 1.0) * bound


def _adapter_settings(module: Any, base: BaseModel, config: TrainingConfig) -> bytes:
    """Return `adapter_config.json`, written by us: a config a library wrote could name code or files."""
    targets = sorted(module.peft_config["default"].target_modules)
    return canonical_json(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "revision": base.digest,
            "r": config.lora_rank,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": targets,
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        }
    )


def _check_tensors(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    if set(tensors) != set(parameters):
        raise _bad_adapter(f"{len(set(tensors) ^ set(parameters))} tensors are missing or foreign")
    for name, parameter in parameters.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or tensor.dtype != torch.float32:
            raise _bad_adapter(f"{name} has another shape or type")
        if not torch.isfinite(tensor).all():
            raise _bad_adapter(f"{name} holds values that are not finite")


def _bad_adapter(what: str) -> IntegrityError:
    return IntegrityError(f"adapter refused: {what}", code="E_ADAPTER", hint="use an adapter saved by this job")
