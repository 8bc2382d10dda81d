"""Whatever a train chunk says, its rewrites come from it alone, end, and never show the answer they ask for."""

import re

from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.config import SelfplayConfig
from spice_enterprise.records import Chunk, ScrubbedText
from spice_enterprise.selfplay.rewrites import rewrites_of
from spice_enterprise.selfplay.warmup import FactsWarmup

CONFIG = SelfplayConfig(contract="short", challenger_tokens=96, reasoner_tokens=32)
FACTS = st.sampled_from(
    ("The fee is 45 euros per month.", "The term ends on 14 March 2031.", "Key number: 77-1204.", "It holds 320 litres of oil.",
     "Pay 5 % of the price (the \"Net Price\") in May.", "[PERSON_k3f9] signs the lease for thirty (30) days.")
)  # fmt: skip
TEXTS = st.lists(st.one_of(FACTS, st.text(max_size=60)), min_size=1, max_size=8).map(" ".join)


def chunk_of(text, index=0):
    return Chunk(
        document_id="doc_1", index=index, text=ScrubbedText(text), redactions=(), split="train", pii_policy_digest="sha256:0",
        token_count=9,
    )  # fmt: skip


def words(text):
    return re.findall(r"\w+", text)


@given(TEXTS)
def test_rewrites_say_nothing_that_the_chunk_does_not(text):
    known = set(words(text)) | {"In"}
    for rewrite in rewrites_of(chunk_of(text), CONFIG):
        assert rewrite.text.strip()
        assert set(words(rewrite.text)) <= known
        if rewrite.kind in ("cloze", "question"):
            assert rewrite.text.rstrip('"').casefold() not in rewrite.prompt.messages[-1].content.casefold()


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 40))
def test_a_step_of_facts_learns_from_its_own_chunks_and_no_more_than_asked(texts, examples):
    secrets = [f"zq{place}x{place}qz" for place in range(len(texts) + 1)]
    chunks = [chunk_of(f"{text} The code of site {secret} is {place} keys.", place)
              for place, (text, secret) in enumerate(zip(texts, secrets, strict=False))]  # fmt: skip
    warmup = FactsWarmup(encode=lambda prompt, said: ((1,), (*said.encode(), 0)), config=CONFIG, examples=examples, seed=1)
    played = warmup.play(chunks, None, step=1)
    assert len(played.groups) <= examples
    own = {chunk.chunk_id: secret for chunk, secret in zip(chunks, secrets, strict=False)}
    for group in played.groups:
        said = group.rollouts[0].text
        assert not [secret for chunk_id, secret in own.items() if secret in said and chunk_id != group.parent_id]
