"""From a config to parts: the only lazy imports of the package.

In: a `JobConfig`, the parts a user gave, the run's store.
Out: every seam filled, each built when it is first used, so that `ingest` loads torch only to convert the embedded model, once.
Refuses: what a part refuses when it is built.
Not here: the order of the road (`job.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from spice_enterprise import durable, offline
from spice_enterprise.config import (
    EMBEDDED_MODEL,
    JobConfig,
    SelfplayConfig,
    TrainingConfig,
    cache_dir,
    source_secret,
    tracking_host,
    tracking_uri,
    vault_key,
)
from spice_enterprise.corpus.corpus_files import MadeCorpus, is_corpus
from spice_enterprise.errors import PolicyError
from spice_enterprise.policy import GatePolicy, GuardrailsPolicy, PiiPolicy, Policy, load_gate, load_guardrails, load_pii
from spice_enterprise.protocols import (
    AuditSink,
    Check,
    Corpus,
    Detector,
    Embedder,
    Examiner,
    Ingestor,
    Judge,
    Monitor,
    Parts,
    Player,
    Probe,
    Registry,
    Sampler,
    Source,
    Trainer,
    Verifier,
    Window,
)
from spice_enterprise.records import AdapterVersion, Chunk, Exam, GateReport, Promotion, Step, sha256_hex
from spice_enterprise.store import RunStore

if TYPE_CHECKING:
    from spice_enterprise.corpus.ingest import CorpusIngestor
    from spice_enterprise.corpus.listing import Listing
    from spice_enterprise.corpus.scrub import Scrubber
    from spice_enterprise.corpus.vault import Vault
    from spice_enterprise.selfplay.episode import SelfplayStage
    from spice_enterprise.selfplay.grading import GuardedVerifier
    from spice_enterprise.training.base_model import BaseModel
    from spice_enterprise.training.challenger_adapter import ChallengerAdapter
    from spice_enterprise.training.chat import ChatTokenizer
    from spice_enterprise.training.memory import MemoryPlan, ModelShape
    from spice_enterprise.training.qlora import LearnerModel
    from spice_enterprise.training.vllm_sampler import VllmSampler

ORIGIN: Final = "spice.audit"


class Assembly:
    """The parts of one job: the user's own where given, else the defaults."""

    def __init__(self, config: JobConfig, given: Parts, store: RunStore) -> None:
        self.config = config
        self._given = given
        self._store = store

    # --- what is allowed, and secrets -------------------------------------------------------------------------------

    @cached_property
    def pii_policy(self) -> PiiPolicy:
        """Which values are removed."""
        return _unexpired(load_pii(self.config.policies.pii))

    @cached_property
    def guardrails_policy(self) -> GuardrailsPolicy:
        """The hard rules of a run."""
        return _unexpired(load_guardrails(self.config.policies.guardrails))

    @cached_property
    def gate_policy(self) -> GatePolicy:
        """What an adapter must show."""
        return _unexpired(load_gate(self.config.policies.gate))

    def policy_digests(self) -> dict[str, str]:
        """Return the digest of each policy by name."""
        return {
            "pii": self.pii_policy.digest(),
            "guardrails": self.guardrails_policy.digest(),
            "gate": self.gate_policy.digest(),
        }

    @cached_property
    def _tenant_key(self) -> bytes:
        return durable.load_or_create_secret(self.config.workspace_dir / "keys" / "tenant.key")

    @cached_property
    def _log_key(self) -> bytes:
        return durable.load_or_create_secret(self.config.workspace_dir / "keys" / "log.key")

    # --- corpus -----------------------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> Source:
        """Where the documents are: a folder, or a place that the policy allows by its URL."""
        if self._given.source is not None:
            return self._given.source
        if is_corpus(Path(self.config.corpus)):
            return MadeCorpus(Path(self.config.corpus), self.pii_policy)
        from spice_enterprise.corpus.opening import open_source

        allowed = self.pii_policy.sources.allow_urls
        return open_source(self.config.corpus, self._listing(), allow_urls=allowed, secret=source_secret)

    def _listing(self) -> "Listing":
        from spice_enterprise.corpus.listing import Listing
        from spice_enterprise.corpus.preparing import is_required
        from spice_enterprise.corpus.sandbox import RawDocument, Sandbox

        ingest = self.config.ingest
        sandbox = Sandbox(is_required=is_required(ingest, self.pii_policy))
        return Listing(
            key=self._tenant_key,
            scrub_name=self._scrubber.scrub_name,
            max_file_bytes=ingest.max_file_bytes,
            max_documents=ingest.max_documents,
            acl_label=ingest.acl_label,
            expand=lambda data, suffix: sandbox.expand(RawDocument(suffix=suffix, data=data)),
        )

    @cached_property
    def _scrubber(self) -> "Scrubber":
        from spice_enterprise.corpus.scrub import Scrubber

        return Scrubber(self.pii_policy, self.detector, self._tenant_key)

    @cached_property
    def detector(self) -> Detector:
        """Patterns with checksums, and names found by spaCy through Presidio and by what the config adds."""
        if self._given.detector is not None:
            return self._given.detector
        from spice_enterprise.corpus.detection import make_detector

        return make_detector(self.config.ingest)

    @cached_property
    def ingestor(self) -> Ingestor:
        """Read, scrub, cut, split; or the corpus that `ingest --out` made of the folder before."""
        if self._given.ingestor is not None:
            return self._given.ingestor
        if isinstance(self.source, MadeCorpus):
            return self.source
        return self.ingestor_into(self._store.run_dir / "corpus")

    def ingestor_into(self, folder: Path) -> "CorpusIngestor":
        """Return the corpus stage that writes into `folder`."""
        from spice_enterprise.corpus.detection import ner_identity_of
        from spice_enterprise.corpus.finishing import Finisher
        from spice_enterprise.corpus.ingest import CorpusIngestor
        from spice_enterprise.corpus.preparing import Preparer
        from spice_enterprise.corpus.second_look import SecondLook

        ingest, policy = self.config.ingest, self.pii_policy
        finisher = Finisher(
            config=ingest,
            policy=policy,
            policy_digest=policy.digest(),
            key=self._tenant_key,
            seed=self.config.seed,
            count_tokens=self._count_tokens,
            ner_identity=ner_identity_of(ingest),
            second_look=SecondLook(),
        )
        # a detector that the user gave is an object of this process: it cannot be sent to others
        is_here = ingest.workers == 1 or self._given.detector is not None
        preparer = Preparer(ingest, policy, self._scrubber, self._tenant_key) if is_here else None
        keeper = self.vault if policy.originals == "vault" else None
        return CorpusIngestor(config=ingest, policy=policy, finisher=finisher, preparer=preparer, folder=folder, keeper=keeper)

    @cached_property
    def vault(self) -> "Vault | None":
        """What was removed, encrypted; None where nothing is kept.

        Raises `IntegrityError` E_VAULT or `CorpusError` E_VAULT_KEY when there is a vault that cannot be opened.
        """
        folder = self.config.workspace_dir / "vault"
        is_new = not (folder / "originals.db").exists()
        if is_new and self.pii_policy.originals != "vault":
            return None
        from spice_enterprise.corpus.keys import master_key
        from spice_enterprise.corpus.vault import open_vault

        tenant = sha256_hex(b"spice tenant|" + self._tenant_key)[:16]
        keys = master_key(tenant, file=folder / "master.key", kms=self._given.keys, environment=vault_key(), may_create=is_new)
        return open_vault(folder / "originals.db", keys, tenant=tenant, may_create=is_new)

    def start_guard(self) -> None:
        """Count connections from now on; offline, refuse them but for the hosts that config and policy name."""
        named = (tracking_host(self.config), *self._source_hosts())
        offline.GUARD.start(is_offline=self.config.offline, allowed_hosts=tuple(filter(None, named)))

    def _source_hosts(self) -> Sequence[str]:
        if self._given.source is not None or "://" not in self.config.corpus:
            return ()
        hosts: Callable[[], Sequence[str]] = getattr(self.source, "hosts", tuple)
        return hosts()

    def forget_corpus_parts(self) -> None:
        """Let go of the name finder and what it remembers: hundreds of megabytes nobody needs once chunks are made."""
        for name in ("source", "detector", "ingestor", "_scrubber", "vault"):
            self.__dict__.pop(name, None)

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        from spice_enterprise.training.tokens import load_tokenizer_only

        return load_tokenizer_only(self.base_model.path)

    # --- the model --------------------------------------------------------------------------------------------------

    @cached_property
    def base_model(self) -> "BaseModel":
        """The base model's files, checked."""
        from spice_enterprise.training.base_model import resolve_base_model

        return resolve_base_model(
            self.config.base_model,
            cache_dir=cache_dir(),
            is_offline=self.config.offline,
            expected_digest=self.config.base_digest,
        )

    @cached_property
    def sized(self) -> JobConfig:
        """The config with contract and token limits settled for the base model."""
        from spice_enterprise.training.memory import ModelShape

        return self.config.sized(ModelShape.from_config(self._model_config).weights)

    @cached_property
    def _model_config(self) -> Mapping[str, Any]:
        """The base model's `config.json`."""
        from spice_enterprise.training.base_model import EMBEDDED_CONFIG, read_model_config

        # the embedded model is converted when it is first needed, and its dimensions are known before
        return EMBEDDED_CONFIG if self.config.base_model == EMBEDDED_MODEL else read_model_config(self.base_model.path)

    def require_engine(self) -> None:
        """Refuse settings that contradict each other, and a job that does not fit in memory, before anything is loaded.

        Raises `ConfigError`: E_MEMORY with the arithmetic, or the code of the first contradiction.
        """
        if self._given.trainer is None or self._given.sampler is None:
            self._layout  # noqa: B018 - found once, and kept

    def close(self) -> None:
        """Let go of what lives beyond its objects: vLLM's engine with the folder of its adapters, the grading process."""
        if "grader" in self.__dict__:
            self.grader.close()
        engine = self.__dict__.pop("_vllm", None)
        if engine is not None:
            for name in ("sampler", "base_sampler", "_selfplay", "player", "probe", "checks", "judge"):
                self.__dict__.pop(name, None)
            engine.close()

    @cached_property
    def _layout(self) -> "MemoryPlan":
        """How learner and sampler fit into the memory that is free now."""
        from spice_enterprise.training.fitting import require_memory
        from spice_enterprise.training.memory import ModelShape
        from spice_enterprise.training.settings_check import check_engine

        check_engine(self.config, self._model_config)
        shape = ModelShape.from_config(self._model_config)
        return require_memory(self.config, shape, beside=self._challenger_shape)

    @property
    def _challenger_model(self) -> str | None:
        """The directory of another model that proposes; None where the base or the user's own sampler does, or the player."""
        play = self.config.selfplay
        is_used = play.challenger == "frozen" and self._given.challenger_sampler is None
        return play.challenger_model if is_used else None

    @property
    def _challenger_shape(self) -> "ModelShape | None":
        """The dimensions of another model that proposes, where there is one."""
        if self._challenger_model is None:
            return None
        from spice_enterprise.training.base_model import read_model_config
        from spice_enterprise.training.memory import ModelShape

        return ModelShape.from_config(read_model_config(Path(self._challenger_model)))

    @cached_property
    def _training(self) -> TrainingConfig:
        """The learner's settings, with smaller micro-batches where a GPU has no room for those asked for."""
        work = self._layout.work
        limit = min(self.config.training.max_batch_tokens, work.batch_tokens) if work.is_gpu else None
        return self.config.training.model_copy(update={"max_batch_tokens": limit} if limit else {})

    @cached_property
    def _learner(self) -> "LearnerModel":
        from spice_enterprise.training.qlora import LearnerModel

        return LearnerModel.load(self.base_model, self._training, seed=self.config.seed)

    @cached_property
    def _tokenizer(self) -> "ChatTokenizer":
        from spice_enterprise.training.chat import ChatTokenizer

        return ChatTokenizer(self.base_model.path)

    @cached_property
    def sampler(self) -> Sampler:
        """Completions under the current adapter; with weights of its own it serves nothing that was not proven to arrive."""
        sampler = self._given.sampler or self._own_sampler()
        shares_weights = self.config.sampler.kind == "hf" and self.config.sampler.weights != "twin"
        has_no_learner = self._given.trainer is not None
        return sampler if has_no_learner or (shares_weights and self._given.sampler is None) else self._proven(sampler)

    def _proven(self, sampler: Sampler) -> Sampler:
        from spice_enterprise.training.delivery import ProvenSampler, gap_limit

        limit = gap_limit(self._learner.compute_dtype, self._sampler_dtype)
        return ProvenSampler(sampler, self._hf_sampler(self._learner), limit_nats=limit)

    @cached_property
    def base_sampler(self) -> Sampler:
        """Completions of the frozen base: the same weights, without the adapter."""
        return self._given.base_sampler or self._own_sampler()

    def _own_sampler(self) -> Sampler:
        if self.config.sampler.kind == "vllm":
            return self._vllm.beside()
        return self._server_sampler() if self.config.sampler.kind == "server" else self._hf_sampler(self._sampling_model)

    @cached_property
    def _vllm(self) -> "VllmSampler":
        from spice_enterprise.training.vllm_sampler import open_vllm

        return open_vllm(self.base_model, self.config, self._layout, run_dir=self._store.run_dir, cache_dir=cache_dir())

    def _server_sampler(self) -> Sampler:
        from spice_enterprise.training.server_line import ServerLine
        from spice_enterprise.training.server_sampler import ServerSampler
        from spice_enterprise.training.server_token import read_token, token_path
        from spice_enterprise.training.wire import served_weights

        settings = self.config.sampler
        return ServerSampler(
            ServerLine(settings.url, token=read_token(token_path(self.config)), timeout_s=settings.timeout_s),
            base_digest=self.base_model.digest,
            dtype=self._sampler_dtype,
            weights=served_weights(self.config),
            encode_prompt=self._tokenizer.encode_prompt,
            run_dir=self._store.run_dir,
        )

    @cached_property
    def _sampling_model(self) -> "LearnerModel":
        """What writes completions in this process: the learner's module, or a copy of it."""
        if self.config.sampler.weights != "twin":
            return self._learner
        from spice_enterprise.training.hf_twin import load_twin

        return load_twin(self.base_model, self.config.training, dtype=self.config.sampler.dtype, seed=self.config.seed)

    def _hf_sampler(self, model: "LearnerModel") -> Sampler:
        from spice_enterprise.training.hf_sampler import HfSampler

        return HfSampler(model, self._tokenizer, run_dir=self._store.run_dir)

    @property
    def _sampler_dtype(self) -> str:
        if self._given.sampler is not None:
            return "bfloat16"  # not known: the wider bound
        chosen = self.config.sampler.dtype
        return self._learner.compute_dtype if chosen == "auto" else chosen

    @cached_property
    def trainer(self) -> Trainer:
        """The QLoRA learner."""
        if self._given.trainer is not None:
            return self._given.trainer
        from spice_enterprise.training.trainer import Lineage, QloraTrainer, Sampling

        selfplay = self.sized.selfplay
        return QloraTrainer(
            self._learner,
            run_dir=self._store.run_dir,
            config=self._training,
            lineage=Lineage(
                base_model=self.base_model.name,
                base_digest=self.base_model.digest,
                corpus_digest=self._corpus_digest,
                config_digest=self.config.digest(),
            ),
            sampling=Sampling(
                l_max={"challenger": selfplay.challenger_tokens, "reasoner": selfplay.reasoner_tokens},
                temperature=selfplay.temperature,
                dtype=self._sampler_dtype,
            ),
            warmup=self.config.warmup_training,
            challenger=self._challenger_adapter,
        )

    @cached_property
    def _challenger_adapter(self) -> "ChallengerAdapter | None":
        """What learns from proposals where the roles are separate; made while the learner is fresh."""
        if self.config.selfplay.roles == "shared" or self._given.trainer is not None:
            return None
        from spice_enterprise.training.challenger_adapter import ChallengerAdapter

        return ChallengerAdapter(self._learner)

    @property
    def _corpus_digest(self) -> str:
        corpus = self._store.load("corpus", Corpus)
        return corpus.digest if corpus else ""

    def adapter_folder(self, version: AdapterVersion) -> Path:
        """Return where a version's files lie."""
        return self._store.run_dir / "adapters" / version.adapter_id

    # --- self-play and watching -------------------------------------------------------------------------------------

    @cached_property
    def verifier(self) -> Verifier:
        """Grades by answer kind, or as the user's own does; in a process that can be killed."""
        return self.grader

    @cached_property
    def grader(self) -> "GuardedVerifier":
        """The verifier under its time limit."""
        from spice_enterprise.selfplay.answers import KindVerifier
        from spice_enterprise.selfplay.grading import GuardedVerifier

        return GuardedVerifier(self._given.verifier or KindVerifier())

    @cached_property
    def player(self) -> Player:
        """Both roles on every chunk; the loop reminds it of the questions the run has admitted."""
        if self.config.warmup == "facts":
            from spice_enterprise.selfplay.warmup import require_examples

            require_examples(self._train_chunks, self.sized.selfplay)  # before a model is loaded
        player = self._given.player or self._selfplay
        return self._warmed(player) if self.warmup_steps else player

    @property
    def warmup_steps(self) -> int:
        """How many steps of the loop learn examples before self-play begins."""
        return 0 if self.config.warmup == "none" else self.config.warmup_training.steps

    def _warmed(self, player: Player) -> Player:
        """Let the first steps learn examples, and `player` play the others."""
        from spice_enterprise.selfplay.warmup import FactsWarmup, FormatWarmup, WarmedPlayer

        encode, config, seed = self._tokenizer.encode_example, self.sized.selfplay, self.config.seed
        examples, library = self.config.warmup_training.examples_per_step, self._train_chunks
        if self.config.warmup == "facts":
            warmup: Player = FactsWarmup(encode=encode, config=config, examples=examples, seed=seed)
        else:
            warmup = FormatWarmup(self._selfplay, encode=encode, config=config, examples=examples, seed=seed, library=library)
        return WarmedPlayer(warmup, player, steps=self.warmup_steps)

    @cached_property
    def _selfplay(self) -> "SelfplayStage":
        return self.stage(self.sized.selfplay)

    def stage(self, play: SelfplayConfig) -> "SelfplayStage":
        """Return self-play on the job's samplers, grader and train chunks, with these settings."""
        from spice_enterprise.selfplay.episode import SelfplayStage, Speakers

        needs_base = play.admission == "checked" or play.challenger == "frozen"
        speakers = Speakers(
            player=self.sampler,
            base=self.base_sampler if needs_base else None,
            challenger=self._challenger_sampler,
        )
        return SelfplayStage(
            speakers,
            grader=self.grader,
            config=play,
            seed=self.config.seed,
            library=self._train_chunks,
            embedder=self._embedder,
        )

    @property
    def _train_chunks(self) -> tuple[Chunk, ...]:
        corpus = self._store.load("corpus", Corpus)
        return corpus.train if corpus else ()

    @cached_property
    def _embedder(self) -> Embedder:
        """What finds near-copies of a question: hashed n-grams, or a local encoder."""
        if self._given.embedder is not None:
            return self._given.embedder
        if self.config.selfplay.embedder == "hashed":
            from spice_enterprise.selfplay.embedding import HashedEmbedder

            return HashedEmbedder()
        from spice_enterprise.training.encoder import EncoderEmbedder

        return EncoderEmbedder(Path(self.config.selfplay.embedder))

    def model_digests(self) -> dict[str, str]:
        """Return the digests of models beside the base that decide what is played, by setting."""
        from spice_enterprise.training.base_model import digest_model

        play = self.config.selfplay
        used = {
            "embedder": play.embedder if play.embedder != "hashed" and self._given.embedder is None else None,
            "challenger_model": self._challenger_model,
        }
        return {
            name: f"sha256:{digest_model(Path(path))}" for name, path in used.items() if path is not None and Path(path).is_dir()
        }

    @cached_property
    def _challenger_sampler(self) -> Sampler | None:
        """Who proposes where that is not the player: another model, which is frozen, or the Challenger's own adapter."""
        if self._challenger_adapter is not None:
            from spice_enterprise.training.challenger_sampler import ChallengerSampler

            adapter, run_dir = self._challenger_adapter, self._store.run_dir
            return ChallengerSampler(self._learner, self._tokenizer, run_dir=run_dir, challenger=adapter)
        if self._challenger_model is None:
            return self._given.challenger_sampler
        from spice_enterprise.training.base_model import resolve_base_model
        from spice_enterprise.training.chat import ChatTokenizer
        from spice_enterprise.training.hf_sampler import HfSampler
        from spice_enterprise.training.qlora import LearnerModel

        name, is_offline = self._challenger_model, self.config.offline
        other = resolve_base_model(name, cache_dir=cache_dir(), is_offline=is_offline, expected_digest=None)
        held = LearnerModel.load(other, self.config.training, seed=self.config.seed)
        digest = f"sha256:{other.digest}"
        return HfSampler(held, ChatTokenizer(other.path), run_dir=self._store.run_dir, bare_digest=digest)

    @cached_property
    def monitors(self) -> tuple[Monitor, ...]:
        """Hard rules, rules over what is played, and a look for leaks."""
        if self._given.monitors is not None:
            return self._given.monitors
        from spice_enterprise.guardrails.drift import HardRuleMonitor
        from spice_enterprise.guardrails.leaks import LeakMonitor
        from spice_enterprise.guardrails.play_rules import PlayMonitor

        policy, play = self.guardrails_policy, self.config.selfplay
        hard = HardRuleMonitor(policy, least_reward=min(play.invalid_reward, -play.duplicate_penalty))
        return (hard, PlayMonitor(policy, warmup_steps=self.warmup_steps), LeakMonitor(self._patterns))

    @cached_property
    def probe(self) -> Probe | None:
        """Measures the standing version from time to time; None where nothing is to be measured."""
        steps, play = self.warmup_steps + self.config.selfplay.steps, self.config.selfplay
        corpus, exam = self._store.load("corpus", Corpus), self._store.load("exam", Exam)
        if self._given.probe is not None or corpus is None or exam is None or not 0 < play.measure_every <= steps:
            return self._given.probe
        from spice_enterprise.probes import StandingProbe, development_exam, read_general_items

        return StandingProbe(
            sampler=self.sampler,
            base_sampler=self.base_sampler,
            verifier=self.verifier,
            play=self.sized.selfplay,
            last_step=steps,
            seed=self.config.seed,
            dev=development_exam(corpus, exam, seed=self.config.seed),
            chunks={chunk.chunk_id: chunk for chunk in corpus.train},
            general=read_general_items(Path(play.general_items)) if play.general_items else (),
        )

    @cached_property
    def _patterns(self) -> Detector:
        from spice_enterprise.corpus.detectors import PatternDetector

        return PatternDetector()

    # --- release ----------------------------------------------------------------------------------------------------

    @cached_property
    def examiner(self) -> Examiner:
        """Questions from verbatim facts."""
        if self._given.examiner is not None:
            return self._given.examiner
        from spice_enterprise.release.exam import FactExaminer

        return FactExaminer(self.config.exam, self.config.seed)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """Gain and leaks."""
        if self._given.checks is not None:
            return self._given.checks
        from spice_enterprise.release.evaluation import FourBars, Grading, TransferGainCheck
        from spice_enterprise.release.gate import level_of
        from spice_enterprise.release.leak_checks import CanaryCheck

        exam = self.config.exam
        grading = Grading(verifier=self.verifier, answer_tokens=exam.answer_tokens, seed=self.config.seed)
        bars = FourBars(base_sampler=self.base_sampler, sampler=self.sampler, grading=grading, folder=self._store.run_dir)
        gain = TransferGainCheck(
            bars=bars,
            config=exam,
            level=level_of(self.gate_policy, "transfer_accuracy"),
            seed=self.config.seed,
            training_texts=self._rollout_texts,
        )
        return (gain, CanaryCheck(detector=self._patterns, bars=bars, rollout_texts=self._written_texts))

    def _rollout_texts(self) -> Iterator[str]:
        """Yield everything that training saw as a target, examples included."""
        for played in self._store.played():
            yield from (rollout.text for item in played.rollouts for rollout in item.group.rollouts)

    def _written_texts(self) -> Iterator[str]:
        """Yield what the model wrote: examples of the warm-up are texts of documents."""
        groups = (item.group for played in self._store.played() for item in played.rollouts)
        yield from (rollout.text for group in groups if group.objective == "policy" for rollout in group.rollouts)

    @cached_property
    def judge(self) -> Judge:
        """The gate."""
        if self._given.judge is not None:
            return self._given.judge
        from spice_enterprise.release.gate import GateJudge

        return GateJudge(checks=self.checks, policy=self.gate_policy)

    @cached_property
    def registry(self) -> Registry:
        """Signed pointer files in the workspace."""
        if self._given.registry is not None:
            return self._given.registry
        from spice_enterprise.release import connect

        return connect(self.config.workspace_dir, policy=self.gate_policy, clock=_now, decided_at=self._decided_at)

    def is_fresh(self, report: GateReport) -> bool:
        """True while a gate decision is young enough to be promoted on; one nobody logged does not age."""
        decided_at = None if self._given.audit is not None else self._decided_at(report.gate_id)
        return decided_at is None or _now() - decided_at <= timedelta(days=self.gate_policy.max_evidence_age_days)

    def _decided_at(self, gate_id: str) -> datetime | None:
        """Return when the log says a gate decision was made."""
        from spice_enterprise.audit import open_trail

        for record in open_trail(self.config.workspace_dir).events("gate.decided"):
            if record.data.get("gate_id") == gate_id:
                return datetime.fromisoformat(record.ts)
        return None

    # --- audit ------------------------------------------------------------------------------------------------------

    @cached_property
    def audit(self) -> AuditSink:
        """The transparency log of the workspace."""
        if self._given.audit is not None:
            return self._given.audit
        from spice_enterprise.audit.checkpoints import write_trust_file
        from spice_enterprise.audit.log import TransparencyLog

        log = TransparencyLog(
            self.config.workspace_dir / "audit", origin=ORIGIN, key=self._log_key, actor="spice-enterprise", clock=_now
        )
        write_trust_file(self.config.workspace_dir / "trust.json", origin=ORIGIN, key=self._log_key, clock=_now)
        return log

    def logged_move(self, event: str, promotion: Promotion) -> str | None:
        """Return the leaf of this very pointer move when the log holds it already and nothing about the alias since."""
        if self._given.audit is not None:
            return None
        from spice_enterprise.audit import open_trail
        from spice_enterprise.audit.log import leaf_hash

        self.audit  # noqa: B018 - opens the log, so that there is a trail to read
        trail = open_trail(self.config.workspace_dir)
        moves = [r for name in ("promotion.executed", "rollback.executed") for r in trail.events(name)]
        of_alias = [record for record in moves if record.data.get("alias") == promotion.alias]
        last = max(of_alias, key=lambda record: record.seq, default=None)
        if last is None or last.event != event or last.data.get("generation") != promotion.generation:
            return None
        is_same = any(thing.digest == promotion.adapter_digest for thing in last.subject)
        return f"sha256:{leaf_hash(last.line).hex()}" if is_same else None

    def is_forgotten(self, adapter_digest: str) -> bool:
        """True when the log says that a document was forgotten from which this adapter learned."""
        if self._given.audit is not None:
            return False
        from spice_enterprise.audit import open_trail

        self.audit  # noqa: B018 - opens the log, so that there is a trail to read
        forgotten = open_trail(self.config.workspace_dir).events("document.forgotten")
        return any(thing.digest == adapter_digest for record in forgotten for thing in record.inputs)

    @cached_property
    def window(self) -> Window:
        """MLflow, or nothing when tracking is off."""
        if self._given.window is not None:
            return self._given.window
        if not self.config.tracking.is_enabled:
            return NoWindow()
        from spice_enterprise.audit.mlflow_mirror import MlflowMirror

        return MlflowMirror(
            tracking_uri(self.config),
            self.config.tracking.experiment,
            workspace=self.config.workspace_dir,
            run_dir=self._store.run_dir,
            run_name=self.config.name,
        )


class NoWindow:
    """Shows nothing: `tracking.is_enabled: false`."""

    def start(self, params: Mapping[str, str]) -> None:
        """Show nothing."""

    def log_step(self, step: Step, extra: Mapping[str, float]) -> None:
        """Show nothing."""

    def log_gate(self, report: GateReport) -> None:
        """Show nothing."""

    def log_artifacts(self, paths: Sequence[tuple[Path, str]]) -> None:
        """Show nothing."""

    def register(self, version: AdapterVersion, folder: Path, alias: str) -> None:
        """Show nothing."""

    def finish(self, status: str) -> None:
        """Show nothing."""


P = TypeVar("P", bound=Policy)


def _unexpired(policy: P) -> P:
    """Return the policy, or refuse it once its owner's word no longer holds."""
    until = policy.metadata.valid_until
    if until is not None and _now().date() > until:
        raise PolicyError(
            f"{policy.metadata.name}: valid until {until.isoformat()}",
            code="E_POLICY_EXPIRED",
            hint="have its owner approve a new version",
        )
    return policy


def _now() -> datetime:
    """Return the wall clock, in UTC: a label on records, never an input to a decision."""
    return datetime.now(UTC)  # noqa: TID251 - the one place that reads the clock and hands it on
