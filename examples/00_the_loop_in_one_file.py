"""The self-play loop, told flat: what `loop.py` does with a store, here with lists, on fakes.

In: chunks, a player, a trainer, a monitor that objects to step 3.
Out: the version that stands at the end and what happened on the way.
Refuses: to go on once the restores are used up.
Not here: resuming and the audit log. `loop.py` journals what was played, logs every arrow and commits each step.
"""

from spice_enterprise import AdapterVersion, Alert
from spice_enterprise.guardrails.rollback import version_to_restore
from spice_enterprise.loop import chunks_of_step
from spice_enterprise.protocols import Progress
from spice_enterprise.testing import FakePlayer, FakeTrainer, LineIngestor, MemorySource, ScriptedSampler, StepMonitor

STEPS, CHUNKS_PER_STEP, SEED, MAX_RESTORES = 5, 2, 0, 3
FILES = {f"minutes-{i}.txt": f"Item {i} costs {i + 7} EUR\n".encode() for i in range(10)}


def silent(_: Progress) -> None:
    """Show nothing."""


def main() -> list[str]:
    """Play five steps; go back once."""
    chunks = LineIngestor().ingest(MemorySource(FILES), silent).train
    player, trainer, monitors = FakePlayer(), FakeTrainer(), [StepMonitor([3])]
    sampler = ScriptedSampler(lambda prompt, random: "7 EUR")

    version = trainer.start()  # version 0: the untrained start
    versions: list[AdapterVersion] = [version]
    alerts: list[Alert] = []
    happened: list[str] = []
    restores = 0
    sampler.publish(version)

    for number in range(1, STEPS + 1):
        # 1. choose chunks: every chunk once per pass, each pass in its own seeded order
        chosen = chunks_of_step(chunks, number, CHUNKS_PER_STEP, SEED)

        # 2. play: the challenger proposes tasks from each chunk, the reasoner attempts them, rewards follow
        played = player.play(chosen, version, step=number)

        # 3. update: one optimiser step over both roles' groups; rollouts of another adapter are refused
        step = trainer.update(played.groups, number=number)

        # 4. watch: monitors see what the step measured and what was written
        found = [alert for monitor in monitors for alert in monitor.check(step, played.groups)]
        alerts += found

        # 5. save what the step made, or go back to the newest version that nothing critical is known about
        if any(alert.severity == "critical" for alert in found):
            restores += 1
            version = version_to_restore(versions, alerts, before_step=number)
            trainer.restore(version)
            happened.append(f"step {number}: restored {version.adapter_id}")
        else:
            version = trainer.save(step)
            versions.append(version)
            happened.append(f"step {number}: saved {version.adapter_id}")

        # 6. whoever plays next must play with what stands now
        sampler.publish(version)
        if restores > MAX_RESTORES:
            happened.append("halted: the restores are used up")
            break

    print("\n".join(happened))
    return happened


if __name__ == "__main__":
    main()
