import subprocess
import sys
from collections import Counter

from spice_enterprise.selfplay.regimes import regime_of, shelf


def test_the_shelf_holds_the_source_and_the_others_in_an_order_that_does_not_tell(world):
    source, others = world.chunk("one"), [world.chunk(f"other {i}", index=i) for i in (1, 2)]
    places = Counter()
    for seed in range(60):
        passages = shelf("open_book", source, others, seed=seed).passages
        assert sorted(passages) == ["one", "other 1", "other 2"]
        assert passages == shelf("open_book", source, others, seed=seed).passages
        places[passages.index("one")] += 1
    assert min(places[i] for i in range(3)) >= 10


def test_a_chunk_keeps_its_regime_and_chunks_share_them_out(world):
    regimes = ("self_contained", "open_book")
    chunks = [world.chunk(f"text {i}", index=i) for i in range(60)]
    drawn = [regime_of(chunk, regimes, seed=1) for chunk in chunks]
    assert drawn == [regime_of(chunk, regimes, seed=1) for chunk in chunks]
    assert 15 <= drawn.count("open_book") <= 45
    assert {regime_of(chunk, ("closed_book",), seed=1) for chunk in chunks} == {"closed_book"}


def test_a_shelf_cannot_be_made_in_another_regime_by_type(tmp_path):
    """The type checker itself is asked: a regime that is not known to be open book does not fit."""
    code = tmp_path / "misuse.py"
    code.write_text(
        "from spice_enterprise.records import Chunk, Regime\n"
        "from spice_enterprise.selfplay.regimes import Shelf, shelf\n"
        "def careless(regime: Regime, chunk: Chunk) -> Shelf:\n"
        "    return shelf(regime, chunk, (), seed=0)\n"
        "def careful(regime: Regime, chunk: Chunk) -> Shelf | None:\n"
        "    return shelf(regime, chunk, (), seed=0) if regime == 'open_book' else None\n"
    )
    told = subprocess.run([sys.executable, "-m", "mypy", str(code)], capture_output=True, text=True).stdout
    assert "misuse.py:4: error: Argument 1" in told
    assert told.count("error:") == 1, told
