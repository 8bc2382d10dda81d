"""What the two comparisons with TRL share: the settings both sides get, the check that they got the same, what is printed.

In: a case, the command line.
Out: our arm and TRL's, measured in turns; a table.
Refuses: arms that did not count the same useful tokens (`arms.py`: or did not read the same prompts).
Not here: the cases and targets (`end_to_end.py`, `learner_replay.py`).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.arms import Arm, ArmError, Measured, add_arguments, as_json, compare, cpu_ratio, figures, require, table
from benchmarks.small_model import write_small_model
from benchmarks.step_cases import Case
from spice_enterprise.config import cache_dir
from spice_enterprise.training.base_model import resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer

SEED: Final = 20
RANK: Final = 32
GRAD_CLIP: Final = 0.5
SMALL_SHARE: Final = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A case, what is done with it, and what our side must reach."""

    case: Case
    small: Case
    rival_rows: int
    """Rows of one of TRL's forward passes."""
    function: str
    learning_rate: float
    speed: float | None = None
    """Times TRL's speed that our side must reach; a small case must reach 60 %."""


def main(doc: str | None, contests: Mapping[str, Contest]) -> None:
    """Read the command line, measure the cases it names and print their tables."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--case", choices=(*contests, "all"), default=next(iter(contests)))
    parser.add_argument("--model", default="embedded", help="`embedded` or a directory")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations on both sides")
    parser.add_argument("--quantization", choices=("none", "nf4"), default="none", help="of our base; TRL's is never quantised")
    parser.add_argument("--rival-rows", type=int, help="rows of one of TRL's forward passes")
    args = parser.parse_args()
    found = {}
    for name in contests if args.case == "all" else (args.case,):
        try:
            found[name] = hold(contests[name], args)
        except ArmError as failure:
            raise SystemExit(str(failure)) from None
    if args.json is not None:
        args.json.write_text(json.dumps({name: as_json(arms) for name, arms in found.items()}, indent=1), encoding="utf-8")


def hold(contest: Contest, args: argparse.Namespace) -> list[Measured]:
    """Measure both sides, print the tables, and end the program when a small case misses its share of the target."""
    case = contest.small if args.small else contest.case
    with tempfile.TemporaryDirectory() as directory:
        model = resolve_base_model(args.model, cache_dir=cache_dir(), is_offline=True).path
        if args.small:
            model = write_small_model(model, Path(directory) / "small")
        settings = _settings(contest, case, model, args)
        ours, rival = compare(_arms(contest, settings, args), pairs=args.pairs, warmups=args.warmups)
    _require_same(ours, rival)
    print(f"\n{case.describe()}; checkpointing {'on' if args.checkpointing else 'off'}, {args.threads} thread(s)\n")
    print(table([ours, rival], rival=rival))
    print(f"\n{figures([ours, rival])}", flush=True)
    if args.small and contest.speed is not None:
        # by CPU time: a small case runs where other load is not known
        require("times TRL's speed by CPU time", cpu_ratio(ours, rival).median, at_least=contest.speed * SMALL_SHARE)
    return [ours, rival]


def _settings(contest: Contest, case: Case, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": str(model),
        "steps": case.steps(ChatTokenizer(model), count=args.pairs + args.warmups, seed=SEED),
        "n": case.n,
        "seed": SEED,
        "rank": RANK,
        "learning_rate": contest.learning_rate,
        "grad_clip": GRAD_CLIP,
        "is_checkpointing": args.checkpointing,
        "quantization": args.quantization,
        "rival_rows": args.rival_rows or contest.rival_rows,
    }


def _arms(contest: Contest, settings: dict[str, Any], args: argparse.Namespace) -> list[Arm]:
    sides = (("ours", "engine_arm", sys.executable), ("TRL", "trl_arm", args.rival_python))
    return [
        Arm(name=name, function=f"benchmarks.{module}:{contest.function}", settings=settings, python=python, threads=args.threads)
        for name, module, python in sides
    ]


def _require_same(ours: Measured, rival: Measured) -> None:
    for a, b in zip(ours.iterations, rival.iterations, strict=True):
        if a.tokens != b.tokens:
            raise SystemExit("the two sides did not do the same work: their useful tokens differ")
