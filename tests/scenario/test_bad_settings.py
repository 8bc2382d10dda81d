"""Bad settings, policies and command lines through the real command: one line, its code, exit status 2, no value shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spice_enterprise import cli

CANARY = "xylophone-canary-7731"
HEAD = "apiVersion: spice.policy/v1\nmetadata: {name: n, version: 1, owner: o, approved_on: 2026-11-20}\nkind: PiiPolicy\n"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(done: Result, code: str, status: int = 2) -> list[str]:
    """Check that a command refused, quietly and without quoting; return its lines."""
    lines = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (status, "")
    assert lines[-1].startswith(f"{code}: ")
    assert CANARY not in done.output
    assert "Traceback" not in done.output
    return lines


CONFIGS: dict[str, tuple[bytes, str]] = {
    "51 object tag": (f"corpus: !!python/object/apply:os.system ['touch {CANARY}']\n".encode(), ":1:9: not valid YAML"),
    "51 alias bomb": (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases are not allowed"),
    "51 merge key": (b"a: &a {x: 1}\n<<: *a\n", "aliases are not allowed"),
    "51 key twice": (f"corpus: {CANARY}\ncorpus: b\n".encode(), ":2:1: duplicate key"),
    "51 key twice deep down": (b"corpus: a\nselfplay: {steps: 1, steps: 2}\n", ":2:22: duplicate key"),
    "51 tab": (b"corpus: a\n\tseed: 1\n", ":2:1: not valid YAML"),
    "51 two documents": (b"corpus: a\n---\ncorpus: b\n", "not valid YAML"),
    "52 unknown key": (f"corpus: a\nselfplay: {{stpes: {CANARY}}}\n".encode(), "did you mean 'steps'?"),
    "53 not a number": (b"corpus: a\ntraining: {learning_rate: .nan}\n", "training.learning_rate"),
    "53 infinite": (b"corpus: a\ntraining: {grad_clip: .inf}\n", "training.grad_clip"),
    "53 negative": (b"corpus: a\nseed: -1\n", "seed: input should be greater"),
    "53 text for a number": (f"corpus: a\nseed: '{CANARY}'\n".encode(), "seed: input should be a valid integer"),
    "53 number for text": (b"corpus: 7\n", "corpus: input should be a valid string"),
    "53 huge number": (b"corpus: a\nseed: " + b"9" * 4_000 + b"\n", "seed"),
    "53 number of too many digits": (b"corpus: a\nseed: " + b"9" * 6_000 + b"\n", "not valid YAML"),
    "53 yes for a number": (b"corpus: a\nseed: yes\n", "seed: input should be a valid integer"),
    "53 section is a list": (b"corpus: a\nselfplay: [1]\n", "selfplay"),
    "53 a name with a path": (f"corpus: a\nname: ../{CANARY}\n".encode(), "name: string should match pattern"),
    "55 no UTF-8": (b"corpus: \xff\xfe", "not UTF-8"),
    "55 UTF-16": ("corpus: a".encode("utf-16"), "not UTF-8"),
    "55 empty": (b"", "expected keys and values"),
    "55 list on top": (f"- {CANARY}\n".encode(), "expected keys and values"),
    "55 key that is no text": (b"1: a\n", "expected keys and values"),
    "55 too large": (b"# " + b"x" * (1 << 20), "larger than"),
    "55 control characters": (b"corpus: a\x00b\n", "not valid YAML"),
    "56 100,000 brackets": (b"[" * 100_000, "not valid YAML"),
    "56 tower of keys": (b"{a: " * 20_000, "not valid YAML"),
    "56 bracket left open": (b'{"corpus": "a"', "not valid YAML"),
    "56 two values": (b'{"corpus": "a"} {"corpus": "b"}', "not valid YAML"),
    "56 lone surrogate": (b'{"corpus": "\\ud800", "x": 1}', "E_CONFIG"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_bad_config_is_one_line_that_says_where(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, where = CONFIGS[kind]
    (tmp_path / "job.yaml").write_bytes(data)
    lines = refused(invoke("plan", "job.yaml"), "E_CONFIG")
    assert len(lines) == 1
    assert where in lines[0]
    assert len(lines[0]) < 400
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["job.yaml"]


def test_a_name_from_the_environment_is_not_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", CANARY)
    (tmp_path / "job.yaml").write_text("corpus: ${SECRET_TOKEN}/x\n")
    done = invoke("plan", tmp_path / "job.yaml")
    assert (done.exit_code, CANARY in done.output) == (2, False)


POLICIES: dict[str, tuple[str, str]] = {
    "57 no labels": (HEAD + "labels: {}\n", "labels"),
    "57 threshold above one": (HEAD + "labels: {PERSON: {threshold: 1.5}}\n", "labels.PERSON.threshold"),
    "57 threshold that is no number": (HEAD + f"labels: {{PERSON: {{threshold: {CANARY}}}}}\n", "labels.PERSON.threshold"),
    "57 everything is kept": (HEAD + "labels: {PERSON: {action: keep}}\n", "nothing would be scrubbed"),
    "58 owner approves": (HEAD.replace("owner: o", "owner: o, approved_by: o") + "labels: {PERSON: {}}\n", "cannot approve"),
    "59 expression that does not compile": (
        HEAD + f"labels: {{CODE: {{}}}}\ncustom: [{{label: CODE, pattern: '{CANARY}(', hits: ['{{a}}'], misses: [b]}}]\n",
        "column",
    ),
    "59 expression without end": (
        HEAD + "labels: {CODE: {}}\ncustom: [{label: CODE, pattern: '(a+)+$', hits: ['{a}'], misses: [b]}]\n",
        "column",
    ),
    "59 slow allow pattern": (HEAD + "labels: {PERSON: {allow_patterns: ['(a|a)*b']}}\n", "allow_patterns.0"),
    "60 version to come": (HEAD.replace("policy/v1", "policy/v9") + "labels: {PERSON: {}}\n", "apiVersion"),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_bad_policy_is_refused_before_anything_is_read(tmp_path: Path, kind: str) -> None:
    text, where = POLICIES[kind]
    (tmp_path / "pii.yaml").write_text(text)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text(CANARY)
    checked = invoke("policy", "check", tmp_path / "pii.yaml")
    assert (checked.exit_code, where in checked.output.replace("\n", " "), CANARY in checked.output) == (2, True, False)
    done = invoke("ingest", tmp_path / "files", "--out", tmp_path / "out", "--policy", tmp_path / "pii.yaml")
    lines = refused(done, "E_POLICY")
    assert len(lines) <= 3  # the greeting, "starting", the error
    assert where in lines[-1]
    assert not (tmp_path / "out").exists()


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "71 missing source": (("ingest", "none", "--out", "out"), "E_NO_CORPUS"),
    "71 missing config": (("plan", "none.yaml"), "E_CONFIG"),
    "71 no worker": (("ingest", "files", "--out", "out", "--workers", "0"), "E_CONFIG"),
    "71 less than no worker": (("ingest", "files", "--out", "out", "--workers", "-1"), "E_CONFIG"),
    "71 too many workers": (("ingest", "files", "--out", "out", "--workers", "1000000000"), "E_CONFIG"),
    "71 too many steps": (("run", "files", "--set", "selfplay.steps=1000000000"), "E_CONFIG"),
    "71 out is a file": (("ingest", "files", "--out", "files/a.txt"), "E_OUT"),
    "71 out in the source": (("ingest", "files", "--out", "files/out"), "E_OUT"),
    "50 url": (("ingest", f"https://x.example/{CANARY}", "--out", "out"), "E_URL_DENIED"),
    "50 file url": (("ingest", f"file:///{CANARY}", "--out", "out"), "E_URL_DENIED"),
    "50 address of the machine's keeper": (("ingest", "http://169.254.169.254/latest", "--out", "out"), "E_URL_DENIED"),
    "54 password in a url": (("ingest", f"s3://me:{CANARY}@bucket/x", "--out", "out"), "E_CONFIG_SECRET"),
    "54 key in a url": (("ingest", f"https://x.example/a?sig={CANARY}", "--out", "out"), "E_CONFIG_SECRET"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_that_cannot_be_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text(CANARY)
    arguments, code = COMMANDS[kind]
    assert len(refused(invoke(*arguments), code)) <= 3
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.json*"))


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("ingest",), ("ingest", "a", "--workers", "many"), ("ingest", "a", "--nope")]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_out_on_a_read_only_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in refused(invoke("ingest", tmp_path / "files", "--out", tmp_path / "out"), "E_OUT")[-1]


def test_a_closed_stdout_changes_no_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spice_enterprise", "ingest", str(tmp_path / "none"), "--out", str(tmp_path / "o"), "--json"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1].startswith("E_NO_CORPUS")
    assert b"Traceback" not in done.stderr


MANIFESTS = {
    "empty": b"", "no JSON": b"{", "list": b"[]", "wrong fields": b"{}", "infinite": b'{"documents": 1e999}', "zeros": bytes(500),
    "no UTF-8": b"\xff\xfe{}", "tower of brackets": b"[" * 100_000,
    "number of too many digits": b'{"documents": ' + b"9" * 5_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_bad_manifest_is_told(tmp_path: Path, kind: str) -> None:
    (tmp_path / "manifest.json").write_bytes(MANIFESTS[kind])
    (tmp_path / "corpus.jsonl").write_text(CANARY)
    done = invoke("ingest", "review", tmp_path)
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr.splitlines()[-1].startswith(("E_CORPUS_FILES: ", "E_RECORD: "))
    assert CANARY not in done.output


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bad_input.md"


def test_the_page_has_every_kind_and_names_tests_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in text.splitlines() if re.match(r"\| \d", row)]
    assert {int(number) for row in rows for number in re.findall(r"\d+", row)} == set(range(1, 75))
    for test, path in re.findall(r"\[`(test_\w+)`\]\(([^)\s]+)\)", text):
        assert f"def {test}(" in (PAGE.parent / path).read_text(encoding="utf-8"), test
