"""Set whole families of documents apart, before training, for the exam.

In: documents, the share to set apart, the run's seed.
Out: `train` or `unseen` for each document.
Refuses: to split a family: exact copies are on one side.
Not here: near duplicates. The draw depends on names and seed only, so it is the same in every workspace.
"""

from collections.abc import Sequence
from fractions import Fraction

from spice_enterprise import seeding
from spice_enterprise.records import Document, Split


def split_documents(documents: Sequence[Document], share: float, seed: int) -> dict[str, Split]:
    """Return the split of each document id.

    `share` of the families (rounded half up) is `unseen`: at least one and not all of them, when there are two or more.
    """
    families: dict[str, list[Document]] = {}
    for document in documents:
        families.setdefault(document.keyed_digest, []).append(document)
    drawn = sorted(families.values(), key=lambda family: _lot(family, seed))
    apart = drawn[: unseen_count(len(families), share)]
    unseen = {document.document_id for family in apart for document in family}
    return {d.document_id: "unseen" if d.document_id in unseen else "train" for d in documents}


def unseen_count(families: int, share: float) -> int:
    """Return how many of `families` are set apart."""
    if families < 2:
        return 0
    # a fraction of the written number: 0.15 * 10 is 1.5 and rounds up, the float 0.15 would not
    wanted = int(Fraction(str(share)) * families + Fraction(1, 2))
    return min(max(wanted, 1), families - 1)


def _lot(family: Sequence[Document], seed: int) -> tuple[int, str]:
    name = min(document.uri for document in family)
    return seeding.derive(seed, "split", name), name
