"""What a model proposes over real passages: how much can be read, is fit, and is answered as intended by the base that reads.

In: a corpus (a folder with `manifest.jsonl` and texts, a folder of texts, or a JSON-lines file), a base model, perhaps a run.
Out: a table: shares with and without a hint, by contract and seed; with `--openers` also by how questions begin.
Refuses: nothing.
Not here: the Reasoner, rewards, training.

Each chunk is one passage of the asked length. "Fit" passes the cheap checks of admission; "agreed" are those of the fit where
at least `--agree` of `--samples` answers of the base, shown the passage, are the reference answer; "admitted" is both, of all.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from spice_enterprise.config import TOKENS, SelfplayConfig, TrainingConfig, cache_dir
from spice_enterprise.protocols import BASE_DIGEST, Sampler
from spice_enterprise.records import Chunk, Task, canonical_json, decode, digest_of, sha256_hex
from spice_enterprise.seeding import stream
from spice_enterprise.selfplay.admission import refusal
from spice_enterprise.selfplay.answers import KindVerifier, extract_answer
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.selfplay.base_check import asks
from spice_enterprise.selfplay.challenger import Plan, Proposal, drawn_format, is_askable, plan_chunk, read_proposal
from spice_enterprise.selfplay.options import arrange, distractors
from spice_enterprise.selfplay.spans import find_hints


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One proposal: why it was refused, and the share of the base's answers that agree, by temperature."""

    plan: Plan
    proposal: Proposal = field(repr=False)
    reason: str
    agreed: dict[float, float]


def passages(path: Path, role: str) -> Iterator[tuple[str, str]]:
    """Yield (document id, text) of the documents with this role; of a folder without a manifest all text files."""
    listing = path / "manifest.jsonl" if path.is_dir() else path
    if not listing.is_file():
        yield from ((file.stem, file.read_text(encoding="utf-8")) for file in sorted(path.rglob("*.txt")))
        return
    for line in listing.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("role", role) == role:
            text = entry["text"] if "text" in entry else (path / entry["file"]).read_text(encoding="utf-8")
            yield entry["doc_id"], text


def cut(text: str, shortest: int, longest: int) -> Iterator[str]:
    """Yield runs of whole sentences between these lengths, in characters; what is no prose is left out."""
    piece = ""
    for sentence in text.replace("\n", " ").split(". "):
        if piece and len(piece) + len(sentence) > longest:
            piece = ""
        piece = f"{piece} {sentence.strip()}.".strip() if sentence.strip() else piece
        if shortest <= len(piece) <= longest:
            if sum(c.islower() for c in piece) > 0.6 * len(piece):
                yield " ".join(piece.split())
            piece = ""


def load_chunks(args: argparse.Namespace) -> list[Chunk]:
    """Return `--chunks` chunks, one of each document first, the same for every seed."""
    draws, by_document = stream(0, "proposals"), []
    for document_id, text in passages(Path(args.corpus), args.role):
        pieces = list(cut(text, args.min_chars, args.max_chars))
        draws.shuffle(pieces)
        by_document.append([(document_id, i, piece) for i, piece in enumerate(pieces)])
    draws.shuffle(by_document)
    longest = max(map(len, by_document), default=0)
    turns = (_chunk(*pieces[i]) for i in range(longest) for pieces in by_document if i < len(pieces))
    wanted = SelfplayConfig(hint_values=args.hint_values)
    return list(islice((chunk for chunk in turns if is_askable(chunk, wanted)), args.chunks))


def _chunk(document_id: str, index: int, text: str) -> Chunk:
    # decoded, not constructed: only `corpus/scrub.py` may call text scrubbed
    data = {"document_id": document_id, "index": index, "text": text, "redactions": [], "split": "train"}
    return decode(Chunk, {**data, "pii_policy_digest": digest_of("none"), "token_count": len(text.split())})


def load_samplers(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return (who proposes, the frozen base): the newest adapter of `--adapter`, else the base itself."""
    import torch  # noqa: PLC0415 - the table's arithmetic needs none

    from spice_enterprise.training.base_model import resolve_base_model  # noqa: PLC0415 - as above
    from spice_enterprise.training.chat import ChatTokenizer  # noqa: PLC0415 - as above
    from spice_enterprise.training.checkpoints import read_adapter, valid_states  # noqa: PLC0415 - as above
    from spice_enterprise.training.hf_sampler import HfSampler  # noqa: PLC0415 - as above
    from spice_enterprise.training.qlora import LearnerModel  # noqa: PLC0415 - as above

    torch.set_num_threads(args.threads)
    base = resolve_base_model(args.model, cache_dir=cache_dir(), is_offline=True)
    config = TrainingConfig(quantization=args.quantization, compute_dtype="float32")
    state = next(valid_states(Path(args.adapter)), None) if args.adapter else None
    if args.adapter and state is None:
        raise SystemExit(f"{args.adapter}: no saved state")
    if state is not None:
        settings = json.loads(read_adapter(Path(args.adapter), state.version)["adapter_config.json"])
        config = config.model_copy(update={"lora_rank": settings["r"], "lora_alpha": settings["lora_alpha"]})
    learner = LearnerModel.load(base, config, seed=0)
    learner.adapter_digest = BASE_DIGEST  # what it was loaded with is nobody's: nothing is lost when a version takes its place
    tokenizer = ChatTokenizer(base.path)
    speaker, frozen = (HfSampler(learner, tokenizer, run_dir=Path(args.adapter or base.path)) for _ in range(2))
    if state is not None:
        speaker.publish(state.version)
    return speaker, frozen


def propose(chunks: Sequence[Chunk], config: SelfplayConfig, sampler: Sampler, *, n: int, seed: int) -> list[Judged]:
    """Let `sampler` propose `n` times about each chunk and put every proposal to the cheap checks."""
    hints = [find_hints(chunk.text) for chunk in chunks]
    pool = [hint for of_chunk in hints for hint in of_chunk]
    plans = []
    for i, chunk in enumerate(chunks):
        task_format = drawn_format(chunk, config, seed=seed, step=1) or "free_form"
        nearest = (*hints[i], *pool)
        plans.append(
            plan_chunk(
                chunk, nearest, config, regime=config.regimes[0], seed=seed, step=1, round_number=0, task_format=task_format
            )
        )
    drawn = sampler.sample([plan.prompt for plan in plans], n=n, seed=seed)
    judged = []
    for plan, completions in zip(plans, drawn, strict=True):
        for completion in completions:
            proposal = read_proposal(plan, completion)
            reason = refusal(proposal, plan, config=config, archive=Archive())
            judged.append(Judged(plan=plan, proposal=proposal, reason=reason, agreed={}))
    return [_with_options(each, pool) for each in judged]


def _with_options(each: Judged, pool: Sequence[Any]) -> Judged:
    if each.reason or each.plan.task_format == "free_form" or each.proposal.options:
        return each
    has_options = distractors(each.proposal.answer, each.proposal.answer_kind, pool)
    return each if has_options else Judged(plan=each.plan, proposal=each.proposal, reason="options", agreed={})


def ask_base(judged: Sequence[Judged], config: SelfplayConfig, base: Sampler, *, pool: Sequence[Any], seed: int) -> None:
    """Ask the base about every different fit question, with the passage; note the share that agrees."""
    tasks: dict[str, tuple[Task, Judged]] = {}
    for each in judged:
        if not each.reason:
            task = task_of(each, pool, seed=seed)
            tasks.setdefault(task.task_id, (task, each))
    asked = [asks(task, each.plan.chunk, config, key="", seed=seed)[0] for task, each in tasks.values()]
    heard = base.sample([ask.prompt for ask in asked], n=config.open_book_samples, seed=seed) if asked else []
    verifier, shares = KindVerifier(), {}
    for (task, _), completions in zip(tasks.values(), heard, strict=True):
        right = [verifier.grade(task, extract_answer(completion.text, task.answer_kind)) for completion in completions]
        shares[task.task_id] = fmean(right)
    for each in judged:
        if not each.reason:
            each.agreed[config.check_temperature] = shares[task_of(each, pool, seed=seed).task_id]


def task_of(each: Judged, pool: Sequence[Any], *, seed: int) -> Task:
    """Return the task that would be played."""
    plan, proposal = each.plan, each.proposal
    options: tuple[str, ...] = ()
    answer, kind = proposal.answer, proposal.answer_kind
    if plan.task_format == "choice":
        wrong = [option for option in proposal.options if option != answer]
        wrong = wrong or list(distractors(answer, kind, pool))
        options, answer = arrange(answer, wrong, seed=seed, question=proposal.question)
        kind = "choice"
    return Task(
        chunk_id=plan.chunk.chunk_id,
        rollout_id="",
        question=proposal.question,
        answer=answer,
        answer_kind=kind,
        task_format=plan.task_format,
        regime=plan.regime,
        options=options,
    )


def figures(judged: Sequence[Judged], args: argparse.Namespace) -> dict[str, float]:
    """Return the shares of one seed."""
    codes = {"unparsable", "schema", "type"}
    fit = [each for each in judged if not each.reason]
    found = {"parsable": _share(each.reason not in codes for each in judged), "fit": len(fit) / max(1, len(judged))}
    for temperature in args.temperatures:
        votes = [each.agreed[temperature] for each in fit]
        passed = [vote * args.samples >= args.agree - 1e-9 for vote in votes]
        found[f"mean@{temperature:g}"] = fmean(votes) if votes else 0.0
        found[f"agreed@{temperature:g}"] = _share(passed)
        found[f"admitted@{temperature:g}"] = sum(passed) / max(1, len(judged))
    return found


def _share(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def line(name: str, by_seed: Sequence[dict[str, float]]) -> str:
    """Return a row of the table: mean, and smallest to largest of the seeds."""
    cells = []
    for key in by_seed[0]:
        values = [found[key] for found in by_seed]
        spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.3f}{spread}")
    return f"| {name} | " + " | ".join(cells) + " |"


def by_opener(judged: Sequence[Judged], args: argparse.Namespace) -> None:
    """Print fit and agreed shares by how the question begins, and refusals by reason."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for each in judged:
        opener = each.plan.hint.opener if each.plan.hint else "(none)"
        groups["How many" if opener.startswith("How many") else opener].append(each)
    for opener, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"  {opener}: {len(members)} proposals, " + ", ".join(f"{k} {v:.3f}" for k, v in figures(members, args).items()))
    print("  refused: " + ", ".join(f"{code} {n}" for code, n in Counter(j.reason for j in judged if j.reason).most_common()))


def show(judged: Sequence[Judged]) -> None:
    """Print proposals, of public corpora only."""
    for each in judged:
        print(f"    [{each.reason or each.agreed}] {each.proposal.question[:150]} | {each.proposal.answer[:40]}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="folder with manifest.jsonl, folder of texts, or a JSON-lines file")
    parser.add_argument("--role", default="train")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--min-chars", type=int, default=300)
    parser.add_argument("--max-chars", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--proposals", type=int, default=4, help="for each chunk and seed")
    parser.add_argument("--samples", type=int, default=4, help="answers of the base with the passage")
    parser.add_argument("--agree", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0, help="of the proposals")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.3], help="of the base's answers")
    parser.add_argument("--hint", nargs="+", choices=("none", "span"), default=["none", "span"])
    parser.add_argument("--hint-values", choices=("all", "measures"), default="measures", help="and chunks that have one")
    parser.add_argument("--contract", nargs="+", choices=("short", "full"), default=["short"])
    parser.add_argument("--formats", choices=("free_form", "choice", "both"), default="free_form")
    parser.add_argument("--regime", default="open_book", choices=("self_contained", "open_book", "closed_book"))
    parser.add_argument("--model", default="embedded", help="`embedded` or a directory")
    parser.add_argument("--adapter", help="run directory whose newest adapter proposes; the base stays the base")
    parser.add_argument("--quantization", choices=("none", "nf4"), default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--openers", action="store_true", help="also by how questions begin")
    parser.add_argument("--show", type=int, default=0, help="print so many proposals of each setting; public corpora only")
    return parser.parse_args()


def settings(args: argparse.Namespace, contract: str, hint: str) -> SelfplayConfig:
    """Return the sized settings of one row."""
    asked, answered = TOKENS[contract]
    data = {
        "contract": contract,
        "hint": hint,
        "hint_values": args.hint_values,
        "formats": args.formats,
        "regimes": [args.regime],
        "temperature": args.temperature,
        "challenger_tokens": asked,
        "reasoner_tokens": answered,
        "open_book_samples": args.samples,
        "open_book_agree": args.agree,
    }
    return SelfplayConfig.model_validate_json(json.dumps(data))


def main() -> int:
    """Measure every setting asked for and print its row."""
    args = arguments()
    chunks = load_chunks(args)
    speaker, base = load_samplers(args)
    digest = sha256_hex(canonical_json([chunk.chunk_id for chunk in chunks]))[:12]
    print(
        f"{len(chunks)} chunks ({digest}), {args.proposals} proposals each, {args.seeds} seeds, "
        f"temperature {args.temperature:g}, {args.regime}, {args.formats}"
    )
    for contract in args.contract:
        for hint in args.hint:
            config = settings(args, contract, hint)
            rows, every, started = [], [], time.perf_counter()
            for seed in range(1, args.seeds + 1):
                judged = propose(chunks, config, speaker, n=args.proposals, seed=seed)
                pool = [found for chunk in chunks for found in find_hints(chunk.text)]
                for temperature in args.temperatures:
                    check = config.model_copy(update={"check_temperature": temperature})
                    ask_base(judged, check, base, pool=pool, seed=seed)
                rows.append(figures(judged, args))
                every += judged
            if (contract, hint) == (args.contract[0], args.hint[0]):
                print("| contract, hint | " + " | ".join(rows[0]) + " |\n|" + "---|" * (len(rows[0]) + 1))
            print(line(f"{contract}, {hint}", rows), flush=True)
            if args.openers:
                by_opener(every, args)
            show(every[:: max(1, len(every) // args.show)] if args.show else ())
            print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
