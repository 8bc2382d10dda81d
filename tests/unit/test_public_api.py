"""The public surface, with signatures, is a golden file: it changes on purpose or not at all."""

import inspect
from importlib import import_module
from pathlib import Path

import spice_enterprise

GOLDEN = Path(__file__).parents[1] / "golden" / "public_api.txt"
STABLE = (
    "spice_enterprise.corpus.scrub:detect",
    "spice_enterprise.corpus.scrub:scrub",
    "spice_enterprise.guardrails.drift:make",
    "spice_enterprise.guardrails.drift:DriftMonitor.update",
    "spice_enterprise.selfplay.rewards:challenger_reward",
    "spice_enterprise.selfplay.rewards:reasoner_reward",
    "spice_enterprise.training.advantages:centre",
    "spice_enterprise.release.statistics:paired_cluster_interval",
    "spice_enterprise.release.statistics:mcnemar_exact",
    "spice_enterprise.audit.verify:verify",
    "spice_enterprise.audit.log:root",
    "spice_enterprise.audit:open_trail",
    "spice_enterprise.release:connect",
    "spice_enterprise.job:SpiceAdapterJob",
    "spice_enterprise.job:SpiceAdapterJob.run",
    "spice_enterprise.job:SpiceAdapterJob.plan",
    "spice_enterprise.job:SpiceAdapterJob.with_",
    "spice_enterprise.job:SpiceAdapterJob.ingest",
    "spice_enterprise.job:SpiceAdapterJob.train",
    "spice_enterprise.job:SpiceAdapterJob.gate",
    "spice_enterprise.job:SpiceAdapterJob.promote",
    "spice_enterprise.job:SpiceAdapterJob.rollback",
)


def described() -> str:
    lines = ["__all__: " + ", ".join(sorted(spice_enterprise.__all__))]
    for name in STABLE:
        module, path = name.split(":")
        thing: object = import_module(module)
        for part in path.split("."):
            thing = getattr(thing, part)
        lines.append(f"{name}{inspect.signature(thing)}")  # type: ignore[arg-type]  # all of them are callable
    return "\n".join(lines) + "\n"


def test_the_public_surface_is_the_golden_one(update_golden: bool) -> None:
    if update_golden:
        GOLDEN.write_text(described(), encoding="utf-8")
    expected = GOLDEN.read_text(encoding="utf-8")
    assert described() == expected, "if this is meant: pytest --update-golden, and a line in CHANGELOG.md"


def test_every_public_name_exists() -> None:
    assert all(hasattr(spice_enterprise, name) for name in spice_enterprise.__all__)
