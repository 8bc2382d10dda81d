"""A run opened to be measured: its lock, its guard against connections, its parts; nothing of it is changed.

In: the config of a run.
Out: the parts it was made with, for as long as the block lasts; the exam of its base, and of an adapter once more; the
    documents that its source has now.
Refuses: what a job refuses: a run directory in use (E_LOCKED), a job that does not fit (E_MEMORY).
Not here: what is measured (`experiment.py`, `crossplay.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from spice_enterprise import offline
from spice_enterprise.assembly import Assembly
from spice_enterprise.config import JobConfig
from spice_enterprise.errors import StoreError, boundary
from spice_enterprise.protocols import OnProgress, Parts
from spice_enterprise.records import Document, Exam, GateReport
from spice_enterprise.release.answer_sheet import AnswerSheet
from spice_enterprise.release.evaluation import FourBars, Grading, sheet_of
from spice_enterprise.store import RunStore


@contextmanager
def opened(config: JobConfig, parts: Parts) -> Iterator[Assembly]:
    """Hold a run's directory and give its parts; close them however the block ends.

    Raises `StoreError`: E_LOCKED while a job uses the run, E_STOPPED when it is interrupted.
    """
    offline.check_switches()
    if not config.offline:
        offline.allow_hub()
    store = RunStore(config.run_dir)
    with boundary("store"), store.lock():
        assembly = Assembly(config, parts, store)
        assembly.start_guard()
        try:
            assembly.grader.start()  # its process is forked from this one while it is still small
            assembly.require_engine()
            yield assembly
        except KeyboardInterrupt:
            raise StoreError("stopped on request", code="E_STOPPED", hint="the same command continues") from None
        finally:
            assembly.close()
            offline.GUARD.stop()


def sheet_of_base(config: JobConfig, parts: Parts, exam: Exam, on_progress: OnProgress) -> AnswerSheet:
    """Ask the bare base the exam and return its marks, held against themselves; its bars are kept in the run's directory."""
    with opened(config, parts) as assembly:
        base = assembly.base_sampler
        grading = Grading(verifier=assembly.verifier, answer_tokens=config.exam.answer_tokens, seed=config.seed)
        bars = FourBars(base_sampler=base, sampler=base, grading=grading, folder=config.run_dir, on_progress=on_progress)
        found = bars.base(exam)
        return sheet_of(exam, found, found)


def judge_again(config: JobConfig, parts: Parts, report: GateReport, exam: Exam, on_progress: OnProgress) -> None:
    """Have the adapter of a report asked the exam once more, for the marks that this leaves; the verdict stands as it was."""
    with opened(config, parts) as assembly:
        version = RunStore(config.run_dir).adapter(report.adapter_id)
        assembly.trainer.start()  # a sampler that shares the learner's weights loads nothing over unsaved ones
        assembly.judge.judge(version, exam, (), on_progress)


def listed_documents(config: JobConfig, parts: Parts) -> frozenset[str]:
    """Return the keyed digests of the documents that the source has now; none is parsed."""
    offline.check_switches()
    assembly = Assembly(config, parts, RunStore(config.run_dir))
    with boundary("corpus"):
        assembly.start_guard()
        try:
            return frozenset(d.keyed_digest for d in assembly.source.documents() if isinstance(d, Document))
        finally:
            assembly.forget_corpus_parts()
            offline.GUARD.stop()
