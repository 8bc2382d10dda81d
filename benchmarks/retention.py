"""Is general ability kept? Multiple-choice items, scored by the base and by the last version of runs, item by item.

In: JSON-lines files of `question`, `choices`, `answer_index`; run directories of one base model.
Out: per run the share right of base and adapter, and the paired difference with its bootstrap interval over items.
Refuses: nothing.
Not here: what the exam measures.

An option counts by its mean log-probability per token after the question, which suits models below 10^9 weights.

    OMP_NUM_THREADS=1 python -m benchmarks.retention --runs DIR [DIR ...] --items FILE [FILE ...] [--most 150]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from spice_enterprise.config import build_config, cache_dir
from spice_enterprise.probes import GeneralItem, read_general_items, right_choices
from spice_enterprise.protocols import BASE_DIGEST
from spice_enterprise.records import AdapterVersion
from spice_enterprise.release.statistics import paired_cluster_interval
from spice_enterprise.store import RunStore
from spice_enterprise.training.base_model import resolve_base_model
from spice_enterprise.training.chat import ChatTokenizer
from spice_enterprise.training.hf_sampler import HfSampler
from spice_enterprise.training.qlora import LearnerModel


def marks(run_dir: Path, items: Sequence[GeneralItem], known: dict[str, list[bool]]) -> tuple[list[bool], list[bool], int]:
    """Return what the base and the run's last version got right, and that version's step; a base is asked once."""
    store = RunStore(run_dir)
    config = build_config({**store.settings(), "workspace": str(run_dir.parent)}, where="run.json")
    base = resolve_base_model(config.base_model, cache_dir=cache_dir(), is_offline=True, expected_digest=None)
    model = LearnerModel.load(base, config.training, seed=config.seed)
    model.adapter_digest = BASE_DIGEST  # what it was loaded with is nobody's: nothing is lost when a version takes its place
    sampler = HfSampler(model, ChatTokenizer(base.path), run_dir=run_dir)
    key = f"{base.digest}/{config.training.quantization}"
    if key not in known:
        known[key] = right_choices(sampler, items)
    commit = store.last_commit()
    standing = next(v for v in store.all(AdapterVersion) if commit is not None and v.adapter_id == commit.adapter_id)
    sampler.publish(standing)
    return known[key], right_choices(sampler, items), standing.step


def main() -> None:
    """Print a row per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--items", nargs="+", type=Path, required=True)
    parser.add_argument("--most", type=int, default=150, help="items of each file")
    args = parser.parse_args()
    items = [item for path in args.items for item in read_general_items(path)[: args.most]]
    names = [str(i) for i in range(len(items))]
    known: dict[str, list[bool]] = {}
    print(f"| run | step | base | adapter | difference of {len(items)} items |\n|---|---|---|---|---|")
    for run_dir in args.runs:
        base, adapter, step = marks(run_dir, items, known)
        found = paired_cluster_interval(base, adapter, names, seed=0)
        shares = f"{sum(base) / len(base):.3f} | {sum(adapter) / len(adapter):.3f}"
        print(f"| {run_dir.name} | {step} | {shares} | {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] |", flush=True)


if __name__ == "__main__":
    main()
