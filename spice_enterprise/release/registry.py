"""Which adapter each alias names: one signed pointer file per alias.

In: an adapter version with the gate's report about it.
Out: `sandbox.json`, `staging.json`, `prod.json` (signed, replaced atomically) and `<alias>.history.jsonl` beside each.
Refuses: anything but a PASS for exactly this digest under exactly this policy; stale evidence; a skipped alias; a lost race;
    a pointer with unknown keys, a bad signature or an older generation than its history.
Not here: approvals, the audit log (the caller's `record` writes there before the pointer moves), serving.

The pointer is the truth, the history is how it got there. A move writes the pointer, then the history line; a crash
between the two is healed by the next move, since the pointer holds all that the line would. `generation` only ever grows.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from spice_enterprise.durable import append_lines, drop_torn_tail, read_lines, write_file
from spice_enterprise.errors import AliasMovedError, GateNotPassedError, IntegrityError, NoSafeVersionError, ReleaseError
from spice_enterprise.policy import GatePolicy
from spice_enterprise.protocols import OnMove
from spice_enterprise.records import AdapterVersion, Alias, GateReport, Promotion, canonical_json, decode

KEY_BYTES: Final = 32
Kind = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """The content of a pointer file. `signature` is Ed25519 over the canonical JSON of the rest, in hex."""

    alias: Alias
    generation: int
    digest: str
    previous: str | None
    adapter_id: str
    gate_id: str
    kind: Kind
    log_leaf: str
    at: str
    signature: str

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        content = asdict(self)
        del content["signature"]
        return canonical_json(content)

    def promotion(self) -> Promotion:
        """Return the move that made this pointer."""
        return Promotion(
            gate_id=self.gate_id,
            adapter_id=self.adapter_id,
            adapter_digest=self.digest,
            alias=self.alias,
            generation=self.generation,
            replaces=self.previous,
            kind=self.kind,
            at=self.at,
        )


class _Target(NamedTuple):
    """What a move points the alias at, and the gate decision behind it."""

    kind: Kind
    digest: str
    adapter_id: str
    gate_id: str


class FileRegistry:
    """The default `Registry`. Safe to use from several processes and threads at once.

    Args:
        folder: where the pointers lie.
        key: the raw 32-byte Ed25519 private key that signs them.
        policy: the gate policy whose PASS is required.
        clock: returns the present as an aware datetime.
        decided_at: returns when the gate decision `gate_id` was made. Without it the age of evidence is not checked.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: bytes,
        policy: GatePolicy,
        clock: Callable[[], datetime],
        decided_at: Callable[[str], datetime | None] | None = None,
    ) -> None:
        if len(key) != KEY_BYTES:
            raise ReleaseError(
                f"the registry key must be {KEY_BYTES} bytes", code="E_KEY", hint="restore the key file from backup"
            )
        self._folder = folder
        self._key = Ed25519PrivateKey.from_private_bytes(key)
        self._policy = policy
        self._clock = clock
        self._decided_at = decided_at

    # --- reading ------------------------------------------------------------------------------------------------------

    def current(self, alias: Alias) -> Promotion | None:
        """Return the alias's last move, or None when it never had one. Raises `IntegrityError` (`E_POINTER`)."""
        pointer = self.pointer(alias)
        return pointer.promotion() if pointer else None

    def pointer(self, alias: Alias) -> Pointer | None:
        """Return the verified pointer. Raises `IntegrityError` (`E_POINTER`) when it is not what the registry wrote."""
        # the history is read first: a move that happens in between can only make the pointer newer than it
        lines = read_lines(self._history_path(alias))
        path = self._folder / f"{alias}.json"
        if not path.exists():
            if lines:
                _bad_pointer(alias, "gone, but it has a history")
            return None
        pointer = self._parse(path.read_bytes(), alias)
        if lines and pointer.generation < self._parse(lines[-1], alias).generation:
            _bad_pointer(alias, "older than its own history")
        return pointer

    def history(self, alias: Alias) -> tuple[Promotion, ...]:
        """Return every move of the alias, oldest first. Raises `IntegrityError` when one is missing or altered."""
        return tuple(pointer.promotion() for pointer in self._moves(alias))

    def _moves(self, alias: Alias) -> list[Pointer]:
        moves = [self._parse(line, alias) for line in read_lines(self._history_path(alias))]
        pointer = self.pointer(alias)
        if pointer and len(moves) == pointer.generation - 1:
            moves.append(pointer)  # the crash between pointer and history line
        if [move.generation for move in moves] != list(range(1, len(moves) + 1)) or moves[-1:] != ([pointer] if pointer else []):
            _bad_pointer(alias, "at odds with its history")
        for before, after in pairwise(moves):
            if after.previous != before.digest:
                _bad_pointer(alias, "at odds with its history")
        return moves

    def _parse(self, data: bytes, alias: Alias) -> Pointer:
        try:
            pointer = decode(Pointer, json.loads(data, object_pairs_hook=_no_duplicates))
            self._public().verify(bytes.fromhex(pointer.signature), pointer.signed_bytes())
        except (IntegrityError, ValueError, InvalidSignature, RecursionError):
            _bad_pointer(alias, "not what this registry wrote and signed")
        if pointer.alias != alias:
            _bad_pointer(alias, "the pointer of another alias")
        return pointer

    def _public(self) -> Ed25519PublicKey:
        return self._key.public_key()

    # --- moving -------------------------------------------------------------------------------------------------------

    def promote(
        self, version: AdapterVersion, report: GateReport, alias: Alias, *, record: OnMove, expected_generation: int | None = None
    ) -> Promotion:
        """Point `alias` at `version`.

        `record` is called once nothing can refuse the move any more and before the pointer moves; it makes the audit record
        durable and returns its leaf. `expected_generation` is the generation that the caller saw (0: none yet).

        Raises `GateNotPassedError` unless `report` is a PASS for exactly this digest under this policy and fresh;
        `AliasMovedError` on a lost race; `ReleaseError` `E_PATH` for an alias out of turn and `E_ALREADY_THERE` for what the
        alias names already. When `record` raises, nothing has moved.
        """
        self._require_pass(version, report)
        with self._locked():
            moves = self._moves(alias)
            _require_generation(alias, moves, expected_generation)
            self._require_path(version, alias)
            if moves and moves[-1].digest == version.digest:
                raise ReleaseError(f"{alias} names this adapter already", code="E_ALREADY_THERE", record_id=version.adapter_id)
            target = _Target("promote", version.digest, version.adapter_id, report.gate_id)
            return self._move(moves, alias, target, record)

    def rollback(self, alias: Alias, *, record: OnMove, expected_generation: int | None = None) -> Promotion:
        """Undo the last promotion that was not undone yet; needs no gate and never waits for one.

        `record` as in `promote`. Raises `NoSafeVersionError` when nothing was promoted before it; `AliasMovedError` on a
        lost race.
        """
        with self._locked():
            moves = self._moves(alias)
            _require_generation(alias, moves, expected_generation)
            standing = _standing(moves)
            if len(standing) < 2:
                raise NoSafeVersionError(f"{alias} has no earlier adapter to go back to", hint="promote one that passes the gate")
            back = standing[-2]
            return self._move(moves, alias, _Target("rollback", back.digest, back.adapter_id, back.gate_id), record)

    def _move(self, moves: list[Pointer], alias: Alias, target: _Target, record: OnMove) -> Promotion:
        """Log the move, then make it."""
        pointer = Pointer(
            alias=alias,
            generation=len(moves) + 1,
            digest=target.digest,
            previous=moves[-1].digest if moves else None,
            adapter_id=target.adapter_id,
            gate_id=target.gate_id,
            kind=target.kind,
            log_leaf="",
            at=self._clock().isoformat(),
            signature="",
        )
        self._heal_history(alias, moves)
        pointer = replace(pointer, log_leaf=record(pointer.promotion()))
        pointer = replace(pointer, signature=self._key.sign(pointer.signed_bytes()).hex())
        write_file(self._folder / f"{alias}.json", canonical_json(pointer))
        append_lines(self._history_path(alias), [canonical_json(pointer)])
        return pointer.promotion()

    def _heal_history(self, alias: Alias, moves: list[Pointer]) -> None:
        """Write the line that a crash kept from being written."""
        path = self._history_path(alias)
        drop_torn_tail(path)
        missing = moves[len(read_lines(path)) :]
        if missing:
            append_lines(path, [canonical_json(move) for move in missing])

    def _history_path(self, alias: Alias) -> Path:
        return self._folder / f"{alias}.history.jsonl"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the registry's lock: one move at a time, over all aliases."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # --- refusing -----------------------------------------------------------------------------------------------------

    def _require_pass(self, version: AdapterVersion, report: GateReport) -> None:
        problem = _refusal(version, report, self._policy)
        if problem:
            raise GateNotPassedError(problem, record_id=version.adapter_id, hint="judge exactly this version under this policy")
        if self._decided_at is None:
            return
        decided, limit = self._decided_at(report.gate_id), timedelta(days=self._policy.max_evidence_age_days)
        if decided is None or self._clock() - decided > limit:
            raise GateNotPassedError(
                f"the gate's decision is unknown or older than {limit.days} day(s)",
                code="E_GATE_STALE",
                record_id=version.adapter_id,
                hint="judge the version again",
            )

    def _require_path(self, version: AdapterVersion, alias: Alias) -> None:
        """No skipping: the digest must stand in the alias before, now or earlier, and not have been rolled back there."""
        path = self._policy.path
        if alias not in path:
            raise ReleaseError(f"{alias} is not on the policy's path", code="E_PATH", hint=f"the path is {', '.join(path)}")
        place = path.index(alias)
        if place and version.digest not in {move.digest for move in _standing(self._moves(path[place - 1]))}:
            raise ReleaseError(
                f"{alias} comes after {path[place - 1]}, where this adapter does not stand",
                code="E_PATH",
                record_id=version.adapter_id,
                hint=f"promote it to {path[place - 1]} first",
            )


def _refusal(version: AdapterVersion, report: GateReport, policy: GatePolicy) -> str:
    """Say why `report` is no PASS for `version`; empty when it is."""
    if report.verdict != "PASS":
        return f"the gate said {report.verdict}"
    if not report.results or any(result.verdict != "PASS" for result in report.results):
        return "the report says PASS but not all of its results do"
    if (report.adapter_digest, report.adapter_id) != (version.digest, version.adapter_id):
        return "the report is about another adapter"
    return "" if report.policy_digest == policy.digest() else "the report was made under another policy"


def _require_generation(alias: Alias, moves: list[Pointer], expected: int | None) -> None:
    if expected is not None and expected != len(moves):
        raise AliasMovedError(
            f"{alias} is at generation {len(moves)}, expected {expected}", hint="look at what it names now and decide again"
        )


def _standing(moves: list[Pointer]) -> list[Pointer]:
    """Return the promotions that were not undone, oldest first: a rollback takes the last one off."""
    standing: list[Pointer] = []
    for move in moves:
        if move.kind == "promote":
            standing.append(move)
        else:
            standing.pop()
    return standing


def _bad_pointer(alias: Alias, problem: str) -> NoReturn:
    raise IntegrityError(
        f"the pointer {alias} is {problem}",
        code="E_POINTER",
        hint="do not serve it; restore the registry folder and run audit verify",
    )


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("duplicate key")
    return cast("dict[str, object]", dict(pairs))
