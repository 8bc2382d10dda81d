import pytest

from spice_enterprise.corpus.splits import split_documents, unseen_count
from spice_enterprise.records import Document


def documents(n, key="k"):
    return [Document(uri=f"{i}.txt", media_type="t", keyed_digest=f"{key}{i}", size_bytes=1) for i in range(n)]


@pytest.mark.parametrize(
    ("families", "share", "unseen"),
    [
        (0, 0.2, 0),
        (1, 0.9, 0),
        (2, 0.01, 1),
        (2, 0.99, 1),
        (10, 0.2, 2),
        (10, 0.15, 2),
        (10, 0.25, 3),
        (7, 0.3, 2),
        (120, 0.2, 24),
    ],
)
def test_the_share_is_rounded_half_up_within_bounds(families, share, unseen):
    assert unseen_count(families, share) == unseen


def test_the_draw_depends_on_names_and_seed_only():
    split = split_documents(documents(10), 0.3, 7)
    assert list(split.values()).count("unseen") == 3
    names = {d.uri for d in documents(10) if split[d.document_id] == "unseen"}
    other_key = documents(10, key="other")
    again = split_documents(list(reversed(other_key)), 0.3, 7)
    assert {d.uri for d in other_key if again[d.document_id] == "unseen"} == names
    assert {tuple(split_documents(documents(10), 0.3, s).values()) for s in range(5)} != {tuple(split.values())}


def test_copies_stay_together():
    copies = [Document(uri=f"{i}.txt", media_type="t", keyed_digest=f"{i // 3}", size_bytes=1) for i in range(12)]
    split = split_documents(copies, 0.5, 1)
    for i in range(0, 12, 3):
        assert len({split[d.document_id] for d in copies[i : i + 3]}) == 1
