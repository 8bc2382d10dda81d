import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from spice_enterprise.errors import ConfigError
from spice_enterprise.records import Task
from spice_enterprise.selfplay.archive import Archive
from spice_enterprise.training.encoder import EncoderEmbedder

NOTICE = "What is the notice period of the lease?"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789?."


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tiny BERT with random weights, as `save_pretrained` leaves it."""
    path = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    tokenizer = Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        BertModel(config).save_pretrained(path)
    return path


@pytest.fixture
def directory(written, tmp_path):
    """A copy that a test may spoil."""
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def asked(question):
    return Task(
        chunk_id="chunk_1", rollout_id="", question=question, answer="a", answer_kind="text", task_format="free_form",
        regime="closed_book",
    )  # fmt: skip


def refused(directory):
    with pytest.raises(ConfigError) as caught:
        EncoderEmbedder(directory)
    assert caught.value.code == "E_EMBEDDER"
    assert caught.value.hint
    assert "\n" not in caught.value.explain()
    return caught.value.message


def test_a_vector_is_the_mean_of_the_last_layer_with_length_one(written):
    embedder = EncoderEmbedder(written)
    (vector,) = embedder.embed([NOTICE])
    tokens = Tokenizer.from_file(str(written / "tokenizer.json")).encode(NOTICE).ids
    with torch.inference_mode():
        mean = BertModel.from_pretrained(written).eval()(torch.tensor([tokens])).last_hidden_state[0].mean(dim=0)
    assert math.fsum(value * value for value in vector) == pytest.approx(1.0)
    assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)


def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(written):
    embedder = EncoderEmbedder(written)
    alone = embedder.embed([NOTICE])[0]
    assert embedder.embed(["Who pays?", NOTICE, "a" * 500])[1] == alone
    assert EncoderEmbedder(written).embed([NOTICE])[0] == alone


@pytest.mark.parametrize("text", ["", "word " * 5_000, "漢字 \0", "<|im_end|>"])
def test_any_text_has_a_vector(written, text):
    assert len(EncoderEmbedder(written).embed([text])[0]) == 16


def test_an_archive_takes_it(written):
    archive = Archive(embedder=EncoderEmbedder(written))
    archive.add(asked(NOTICE), step=1, document_id="doc_1")
    again = Archive(archive.state(), embedder=EncoderEmbedder(written))
    assert again.similarity(NOTICE) == pytest.approx(1.0)
    assert again.similarity("Who pays?") == archive.similarity("Who pays?") < 1.0


def test_a_directory_that_is_missing_or_empty_is_refused(tmp_path):
    assert "no such directory" in refused(tmp_path / "nowhere")
    assert "no config.json" in refused(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_custom.py", "1_Pooling/weights.pt"])
def test_pickles_and_code_are_refused(directory, name):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes(b"x")
    assert name in refused(directory)


def test_a_model_without_safetensors_is_refused(directory):
    (directory / "model.safetensors").unlink()
    assert "safetensors" in refused(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModel": "modeling.Custom"}},
        {"is_encoder_decoder": True},
        {"model_type": "no-such-model"},
        {"hidden_size": 32},
    ],
)
def test_an_odd_config_is_refused(directory, change):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | change))
    assert refused(directory)


def test_damaged_weights_are_refused(directory):
    (directory / "model.safetensors").write_bytes(b"not weights")
    assert "text encoder" in refused(directory)


def test_weights_that_are_no_numbers_are_refused(directory):
    model = BertModel.from_pretrained(directory)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(directory)
    assert "text encoder" in refused(directory)


def test_a_directory_without_tokenizer_is_refused(directory):
    (directory / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(directory)
