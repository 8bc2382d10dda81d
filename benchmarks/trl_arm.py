"""TRL's side of the comparisons: its GRPOTrainer, driven one optimiser step at a time.

In: the settings that `learning.py` makes.
Out: a step from prompts (`end_to_end`); a step from given completions (`replay`).
Refuses: nothing.
Not here: our side (`engine_arm.py`).

The trainer runs `train()` as a user's script does, in a thread that a callback holds before each step. Changed is only what
makes the work equal: completions have their forced lengths, and in `replay` they are given instead of generated.
It neither saves nor publishes: with transformers generation the model that learns is the one that speaks.
"""

import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial
from queue import Queue
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.arms import Run, Settings, Work
from benchmarks.step_cases import fingerprint, messages_of, replayed, rewards_of


class Commanded(TrainerCallback):
    """Holds the trainer before each step until it is told to go on, and says when the step is done."""

    def __init__(self) -> None:
        self.go: Queue[int] = Queue()
        self.done: Queue[BaseException | None] = Queue()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the command."""
        self.go.get()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report."""
        self.done.put(None)


class ForcedLengths(LogitsProcessor):
    """No row ends before its length, and each ends there."""

    def __init__(self, lengths: Sequence[int], eos_ids: Sequence[int]) -> None:
        self._lengths = torch.tensor(lengths)
        self._eos_ids = list(eos_ids)
        self._width: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Forbid or force the end of each row; `scores` [rows, vocabulary] is changed in place."""
        self._width = input_ids.shape[1] if self._width is None else self._width
        scores[:, self._eos_ids] = -torch.inf
        place = input_ids.shape[1] - self._width + 1
        # rows as long as the longest end by themselves
        ends = (self._lengths == place) & (self._lengths < self._lengths.max())
        scores[ends] = -torch.inf
        scores[ends, self._eos_ids[0]] = 0.0
        return scores


class System:
    """The trainer and what it was last asked to do."""

    def __init__(self, settings: Settings) -> None:
        warnings.simplefilter("ignore")
        torch.set_num_threads(settings["threads"])
        self._settings = settings
        self._number = 0
        self._commanded = Commanded()
        self._marks: dict[str, float] = {}
        self._tokens = 0.0
        self._inputs = ""
        self._directory = tempfile.TemporaryDirectory()
        model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True, padding_side="left")
        rank = settings["rank"]
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=[self._reward],
            args=_arguments(settings, self._directory.name),
            train_dataset=_rows(settings),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="all-linear"),
            callbacks=[self._commanded],
        )
        self._generate = self.trainer._generate_single_turn
        self.trainer._generate_single_turn = self._replay if settings["is_replay"] else self._sample

    def begin(self) -> None:
        """Start training; it stops before its first step."""
        threading.Thread(target=self._train, daemon=True).start()

    def step(self, number: int) -> Work:
        """Make one optimiser step."""
        self._number = number
        started, cpu = time.perf_counter(), time.process_time()
        self._commanded.go.put(number)
        if (failure := self._commanded.done.get()) is not None:
            raise failure
        ended = time.perf_counter()
        generated = self._marks["generated"] - self._marks["asked"]
        return Work(
            tokens=self._tokens,
            wall_s=ended - started,
            cpu_s=time.process_time() - cpu,
            inputs=self._inputs,
            figures={"generate_s": generated, "learn_s": ended - started - generated},
        )

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that waits
            self._commanded.done.put(failure)

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._settings["steps"][self._number]
        return groups

    def _reward(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        n = self._settings["n"]
        rewards = [reward for group in self._groups() for reward in rewards_of(group, n)]
        rows = [group for group in self._groups() for _ in range(n)]
        self._tokens = float(sum(len(ids) for ids, row in zip(completion_ids, rows, strict=True) if not row["is_silent"]))
        return rewards

    def _sample(self, prompt_ids: Sequence[Sequence[int]], *rest: Any) -> Any:
        lengths = [group["tail"] for group in self._groups() for _ in range(self._settings["n"])]
        forced = LogitsProcessorList([ForcedLengths(lengths, self.trainer.eos_token_ids)])
        model = self.trainer.model
        original = model.generate
        model.generate = partial(original, logits_processor=forced)
        try:
            return self._timed(prompt_ids, lambda: self._generate(prompt_ids, *rest))
        finally:
            model.generate = original

    def _replay(self, prompt_ids: Sequence[Sequence[int]], *_: Any) -> Any:
        vocabulary = self.trainer.model.config.vocab_size
        rows = [
            row
            for g, group in enumerate(self._groups())
            for row in replayed(
                self._settings["seed"], self._number, g, n=self._settings["n"], tail=group["tail"], vocabulary=vocabulary
            )
        ]
        return self._timed(prompt_ids, lambda: (rows, None))

    def _timed(self, prompt_ids: Sequence[Sequence[int]], generate: Any) -> Any:
        self._inputs = fingerprint(prompt_ids[:: self._settings["n"]])
        self._marks["asked"] = time.perf_counter()
        found = generate()
        self._marks["generated"] = time.perf_counter()
        return found


def _arguments(settings: Settings, directory: str) -> GRPOConfig:
    rows = settings["n"] * len(settings["steps"][0])
    micro = min(settings["rival_rows"], rows)
    return GRPOConfig(
        output_dir=directory, use_cpu=True, bf16=False, fp16=False, seed=settings["seed"], max_steps=len(settings["steps"]),
        per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro, num_generations=settings["n"],
        max_completion_length=max(group["tail"] for step in settings["steps"] for group in step), temperature=1.0,
        loss_type="dr_grpo", beta=0.0, scale_rewards="none", epsilon=0.2, epsilon_high=0.28, num_iterations=1,
        learning_rate=settings["learning_rate"], lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0,
        optim="adamw_torch", max_grad_norm=settings["grad_clip"], gradient_checkpointing=settings["is_checkpointing"],
        shuffle_dataset=False, remove_unused_columns=False, report_to=[], logging_strategy="no", save_strategy="no",
        disable_tqdm=True, dataloader_num_workers=0, dataloader_pin_memory=False,
    )  # fmt: skip


def _rows(settings: Settings) -> Dataset:
    return Dataset.from_dict({"prompt": [messages_of(group["text"]) for step in settings["steps"] for group in step]})


def end_to_end(settings: Settings) -> Run:
    """Generate and learn in every iteration."""
    system = System({**settings, "is_replay": False})
    system.begin()
    return system.step


def replay(settings: Settings) -> Run:
    """Learn from completions that are given; handing them over does not count."""
    system = System({**settings, "is_replay": True})
    system.begin()
    return system.step
