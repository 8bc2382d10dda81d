"""Set whole families of documents apart, before training, for the exam.

In: documents, the family of each, the shares to set apart, the run's seed.
Out: `train`, `unseen` or `exam` for each document.
Refuses: to split a family: copies and near copies are on one side.
Not here: what a family is (`duplicates.py`). The draw depends on names and seed only, so it is the same in every workspace.
"""

from collections.abc import Sequence
from fractions import Fraction

from spice_enterprise import seeding
from spice_enterprise.records import Document, Split


def split_documents(
    documents: Sequence[Document], families: Sequence[int], *, unseen_share: float, exam_share: float, seed: int
) -> list[Split]:
    """Return the split of each document.

    `unseen_share` of the families (rounded half up) is `unseen`: at least one and not all of them, when there are two or
    more. `exam_share` of them is `exam`, drawn from the rest in the same way, unless it is 0.
    """
    members: dict[int, list[Document]] = {}
    for document, family in zip(documents, families, strict=True):
        members.setdefault(family, []).append(document)
    drawn = sorted(members, key=lambda family: _lot(members[family], seed))
    unseen = unseen_count(len(drawn), unseen_share)
    exam = min(unseen_count(len(drawn), exam_share), max(len(drawn) - unseen - 1, 0)) if exam_share else 0
    split: dict[int, Split] = dict.fromkeys(drawn, "train")
    split |= dict.fromkeys(drawn[:unseen], "unseen")
    split |= dict.fromkeys(drawn[unseen : unseen + exam], "exam")
    return [split[family] for family in families]


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
