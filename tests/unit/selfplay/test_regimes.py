import pytest

from spice_enterprise.selfplay.regimes import passages_for


def test_open_book_gives_the_source_and_then_the_others(world):
    source, other = world.chunk("one"), world.chunk("two", index=1)
    assert passages_for("open_book", source) == ("one",)
    assert passages_for("open_book", source, (other,)) == ("one", "two")


@pytest.mark.parametrize("regime", ["self_contained", "closed_book"])
def test_the_others_give_nothing(world, regime):
    assert passages_for(regime, world.chunk("one"), (world.chunk("two", index=1),)) == ()
