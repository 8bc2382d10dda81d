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


def split(listed, families=None, unseen=0.3, exam=0.0, seed=7):
    families = families or list(range(len(listed)))
    return split_documents(listed, families, unseen_share=unseen, exam_share=exam, seed=seed)


def names(listed, splits, wanted):
    return {d.uri for d, s in zip(listed, splits, strict=True) if s == wanted}


def test_the_draw_depends_on_names_and_seed_only():
    listed = documents(10)
    drawn = split(listed)
    assert drawn.count("unseen") == 3
    other_key = list(reversed(documents(10, key="other")))
    assert names(other_key, split(other_key), "unseen") == names(listed, drawn, "unseen")
    assert len({tuple(split(listed, seed=s)) for s in range(5)}) > 1


def test_families_stay_together():
    listed = documents(12)
    families = [3 * (i // 3) for i in range(12)]
    drawn = split(listed, families, unseen=0.5, seed=1)
    assert all(len(set(drawn[i : i + 3])) == 1 for i in range(0, 12, 3))
    assert drawn.count("unseen") == 6


def test_an_exam_part_is_drawn_from_the_rest_and_leaves_some_to_train_on():
    listed = documents(10)
    drawn = split(listed, unseen=0.2, exam=0.3)
    assert [drawn.count(s) for s in ("train", "unseen", "exam")] == [5, 2, 3]
    assert names(listed, drawn, "unseen") == names(listed, split(listed, unseen=0.2), "unseen")
    assert split(documents(2), unseen=0.5, exam=0.9).count("exam") == 0
    assert split(documents(3), unseen=0.5, exam=0.9).count("train") == 1
