"""The error tree, and the one place that classifies a stray exception.

In: a stage name and the id of the record being worked on.
Out: a `SpiceError` with a stable code, where it happened and what to do.
Refuses: to let a foreign exception cross a stage border unclassified, or to carry document text.
Not here: bad *data*. That is a value (`Rejection`, an invalid outcome, an `Alert`), never an exception.

    SpiceError                      code, record_id, hint, explain()
    |- ConfigError (ValueError) --- PolicyError
    |- MissingExtraError (ImportError)
    |- CorpusError --------------- SourceError, ParseError, ScrubError
    |- SamplerError -------------- DeliveryError
    |- TrainingError ------------- NonFiniteLossError, StaleRolloutError
    |- GuardrailError ------------ NoSafeVersionError
    |- StoreError ---------------- IntegrityError
    `- ReleaseError -------------- GateNotPassedError, AliasMovedError

Few classes, many codes: callers branch on the class, runbooks on the code.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

EXIT_DONE: Final = 0
EXIT_MACHINERY: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAIL: Final = 3
EXIT_INCONCLUSIVE: Final = 4
EXIT_INTEGRITY: Final = 5
EXIT_RETRY: Final = 75

RETRY_CODES: Final = frozenset(
    {
        "E_ALIAS_MOVED",
        "E_DISK_FULL",
        "E_DISK_IO",
        "E_LOCKED",
        "E_PORT_TAKEN",
        "E_SAMPLER_AWAY",
        "E_SAMPLER_HUNG",
        "E_SERVER_AWAY",
        "E_STOPPED",
    }
)


class SpiceError(Exception):
    """Root of every error that this package raises on purpose.

    `message` says what and where in ids, names and limits; `hint` says what to do. Neither may hold document text.
    """

    exit_code: int = EXIT_MACHINERY
    default_code: str = "E_INTERNAL"

    def __init__(self, message: str, *, code: str | None = None, record_id: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.record_id = record_id
        self.hint = hint

    def explain(self) -> str:
        """One line: code, what, where, what to do."""
        where = f" [{self.record_id}]" if self.record_id else ""
        hint = f" -> {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{where}{hint}".replace("\n", " ")

    def exit_status(self) -> int:
        """The process exit code: 75 for what may be tried again, else the class's own."""
        return EXIT_RETRY if self.code in RETRY_CODES else self.exit_code


class ConfigError(SpiceError, ValueError):
    """The configuration is unusable. Carries every problem found, not only the first."""

    exit_code = EXIT_USAGE
    default_code = "E_CONFIG"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        record_id: str | None = None,
        hint: str = "",
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, code=code, record_id=record_id, hint=hint)
        self.problems = problems


class PolicyError(ConfigError):
    """A policy file is unusable, or asks for what cannot be."""

    default_code = "E_POLICY"


class MissingExtraError(SpiceError, ImportError):
    """An optional dependency is not installed; names the extra to install."""

    exit_code = EXIT_USAGE
    default_code = "E_MISSING_EXTRA"


class CorpusError(SpiceError):
    """The corpus as a whole cannot be used."""

    exit_code = EXIT_USAGE
    default_code = "E_DATA"


class SourceError(CorpusError):
    """A place that documents come from cannot be listed or read."""

    default_code = "E_IO"


class ParseError(CorpusError):
    """The parser child broke; a single bad file is a `Rejection` instead."""

    default_code = "E_PARSE"


class ScrubError(CorpusError):
    """Scrubbing failed closed: no detector, or residue after scrubbing."""

    default_code = "E_SCRUB"


class SamplerError(SpiceError):
    """A sampler broke or was asked for what it cannot do."""

    default_code = "E_SAMPLER"


class DeliveryError(SamplerError):
    """The sampler did not use the adapter it should have."""

    default_code = "E_DELIVERY"
    exit_code = EXIT_INTEGRITY


class TrainingError(SpiceError):
    """The learner cannot go on."""

    default_code = "E_TRAINING"


class NonFiniteLossError(TrainingError):
    """Loss, gradient or reward is NaN or infinite; the update was withheld."""

    default_code = "E_NON_FINITE"


class StaleRolloutError(TrainingError):
    """A rollout was made by another adapter than the one being updated."""

    default_code = "E_STALE_ROLLOUT"


class GuardrailError(SpiceError):
    """A guardrail could not do its work."""

    default_code = "E_GUARDRAIL"


class NoSafeVersionError(GuardrailError):
    """No earlier version is fit to return to."""

    default_code = "E_NO_SAFE_VERSION"


class StoreError(SpiceError):
    """The run directory cannot be read, written or locked."""

    default_code = "E_STORE"


class IntegrityError(StoreError):
    """Bytes do not match their digest, or a log does not match itself."""

    default_code = "E_INTEGRITY"
    exit_code = EXIT_INTEGRITY


class ReleaseError(SpiceError):
    """A promotion, rollback or registry operation was refused."""

    exit_code = EXIT_USAGE
    default_code = "E_RELEASE"


class GateNotPassedError(ReleaseError):
    """There is no PASS for exactly this adapter digest."""

    default_code = "E_GATE_NOT_PASSED"


class AliasMovedError(ReleaseError):
    """Somebody else moved the pointer first."""

    default_code = "E_ALIAS_MOVED"


_STAGE_ERRORS: Final[dict[str, type[SpiceError]]] = {
    "corpus": CorpusError,
    "selfplay": SamplerError,
    "training": TrainingError,
    "guardrails": GuardrailError,
    "release": ReleaseError,
    "audit": StoreError,
    "store": StoreError,
}

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_BROKEN: Final = frozenset({errno.EIO, errno.EROFS})


def classify(error: BaseException, stage: str, record_id: str | None = None) -> SpiceError:
    """Return the `SpiceError` that stands for `error`; its text is not carried over, only its type."""
    if isinstance(error, SpiceError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return StoreError(
            f"no disk space left during {stage}",
            code="E_DISK_FULL",
            record_id=record_id,
            hint="free some space and run the same command again; what was written is kept",
        )
    if isinstance(error, OSError) and error.errno in _DISK_BROKEN:
        return StoreError(
            f"the disk failed during {stage}",
            code="E_DISK_IO",
            record_id=record_id,
            hint="check the disk and run the same command again; what was written before is kept",
        )
    if isinstance(error, MemoryError):
        return StoreError(
            f"out of memory during {stage}", code="E_MEMORY", record_id=record_id, hint="use a smaller model or batch"
        )
    cls = _STAGE_ERRORS.get(stage, SpiceError)
    unexpected = cls(
        f"unexpected {type(error).__name__} during {stage}",
        code="E_INTERNAL",
        record_id=record_id,
        hint="run again with --debug for the traceback",
    )
    unexpected.exit_code = EXIT_MACHINERY
    return unexpected


@contextmanager
def boundary(stage: str, record_id: str | None = None) -> Iterator[None]:
    """Turn any stray exception of a stage into a `SpiceError`.

    In `corpus` the original is dropped (`from None`): a chained traceback can carry private text.
    """
    try:
        yield
    except SpiceError as error:
        error.record_id = error.record_id or record_id
        raise
    except Exception as error:
        if stage == "corpus":
            raise classify(error, stage, record_id) from None
        raise classify(error, stage, record_id) from error
