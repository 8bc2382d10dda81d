"""Where a step's time goes: challenger, admission, reasoner and grading, and what an admitted task costs in tokens.

In: the directory of a finished run (its settings, chunks and versions).
Out: per version seconds and new tokens by phase, as shares, and tokens per admitted task.
Refuses: nothing.
Not here: the learner's share (`Step.duration_s`; the last column has its mean over the run).

    OMP_NUM_THREADS=1 python -m benchmarks.play_effort RUN_DIR [--plays 3]

Plays are made anew with steps the run never had, and nothing is kept of them.
"""

import argparse
from pathlib import Path
from statistics import fmean

from spice_enterprise.job import begun_with
from spice_enterprise.loop import chunks_of_step
from spice_enterprise.measuring import opened
from spice_enterprise.protocols import Corpus, Parts
from spice_enterprise.records import AdapterVersion, Step
from spice_enterprise.store import RunStore

PHASES = ("challenger", "admission", "reasoner", "grading")


def main() -> None:
    """Print a row per version: the untrained start and the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--plays", type=int, default=3)
    args = parser.parse_args()
    store = RunStore(args.run)
    config, corpus = begun_with(store), store.load("corpus", Corpus)
    assert corpus is not None
    versions = store.all(AdapterVersion)
    learned_s = fmean(step.duration_s for step in store.all(Step))
    print(
        "| version | " + " | ".join(f"{p}: time, tokens" for p in PHASES) + " | tokens per admitted task | play s | learner s |"
    )
    print("|---|" + "---|" * (len(PHASES) + 3))
    with opened(config, Parts()) as assembly:
        stage = assembly.stage(assembly.sized.selfplay)
        assembly.trainer.start([versions[-1]])
        for version in (versions[0], versions[-1]):
            assembly.sampler.publish(version)
            seconds, tokens, tasks = dict.fromkeys(PHASES, 0.0), dict.fromkeys(PHASES, 0), 0
            for play in range(args.plays):
                chunks = chunks_of_step(corpus.train, play + 1, config.selfplay.chunks_per_step, seed=10_007)
                tasks += len(stage.play(chunks, version, step=100_000 + play).tasks)
                assert stage.effort is not None
                for phase, spent_s in stage.effort.seconds:
                    seconds[phase] += spent_s
                for phase, drawn in stage.effort.tokens:
                    tokens[phase] += drawn
            whole_s, drawn = sum(seconds.values()), sum(tokens.values())
            shares = " | ".join(f"{seconds[p] / whole_s:.0%}, {tokens[p] / drawn:.0%}" for p in PHASES)
            cost = f"{drawn / tasks:.0f}" if tasks else "no task"
            print(f"| step {version.step} | {shares} | {cost} | {whole_s / args.plays:.1f} | {learned_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
