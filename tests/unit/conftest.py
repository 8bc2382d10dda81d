"""A finished corpus in a folder, made without reading any file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spice_enterprise.corpus.corpus_files import CorpusWriter, Made
from spice_enterprise.policy import load_pii
from spice_enterprise.protocols import Manifest
from spice_enterprise.records import Chunk, Document, Rejection, decode

MakeCorpus = Callable[..., Manifest]
TEXTS = (
    "The lessee [PERSON_7QK2MA] shall pay [MONEY_4D] to the lessor on the first day of each month.\n"
    "Notices under this lease go to [EMAIL_ADDRESS_B5R2XA], with a copy to the registered office.",
    "Section 4. Either party may end the agreement with ninety days' notice in writing.",
    "The works are done by [ORGANIZATION_9PLM3C] under the supervision of [PERSON_7QK2MA]. "
    "Delays of more than ten days are reported to the <client> & recorded in the site diary.",
)
PARTS = ("[PERSON_7QK2MA]", "[MONEY_4D]", "[EMAIL_ADDRESS_B5R2XA]", "[ORGANIZATION_9PLM3C]")


def chunk_of(document: Document, index: int, split: str, text: str) -> Chunk:
    redactions = [
        {"start": text.index(part), "end": text.index(part) + len(part), "entity": part[1:].rpartition("_")[0]}
        for part in PARTS
        if part in text
    ]
    data: dict[str, Any] = {
        "document_id": document.document_id,
        "index": index,
        "text": text,
        "redactions": sorted(redactions, key=lambda r: r["start"]),
        "split": split,
        "pii_policy_digest": load_pii().digest(),
        "token_count": 30,
        "page": index + 1,
    }
    return decode(Chunk, data)


@pytest.fixture
def make_corpus(monkeypatch: pytest.MonkeyPatch) -> MakeCorpus:
    """Return a function that writes a corpus of invented documents into a folder."""
    monkeypatch.setattr("os.fsync", lambda _: None)

    def make(
        folder: Path, *, documents: int = 4, rejections: tuple[Rejection, ...] = (), texts: tuple[str, ...] = TEXTS
    ) -> Manifest:
        writer = CorpusWriter(folder)
        for number in range(documents):
            is_odd = number % 3 == 1
            document = Document(
                uri=f"leases/[PERSON_7QK2MA]/lease-{number}.pdf",
                media_type="application/pdf",
                keyed_digest=f"{number:064x}",
                size_bytes=41_000 + number,
                language="en",
                pages=3,
                hidden=(("colour", 120), ("zero_width", 4)) if is_odd else (),
                flags=("E_FLAG_HIDDEN_TEXT",) if is_odd else (),
            )
            split = "unseen" if number % 4 == 3 else "train"
            chunks = tuple(chunk_of(document, index, split, f"{number}. {text}") for index, text in enumerate(texts))
            removed = (("EMAIL_ADDRESS", 1), ("MONEY", 1), ("ORGANIZATION", 1), ("PERSON", 2))
            writer.add(document, chunks, removed)
        made = Made(
            pii_policy_digest=load_pii().digest(),
            ner_model="en_core_web_md@7454af3a8d84",
            isolation="landlock+namespace+rlimits+seccomp",
            pipeline_digest="sha256:" + "5" * 64,
        )
        return writer.close(made, rejections, Counter({"short": 3, "repeated": 2} if rejections else {}))

    return make
