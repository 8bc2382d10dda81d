"""Seeds depend on their path and on nothing else."""

from spice_enterprise.seeding import derive, stream


def test_paths_do_not_collide_and_do_not_change() -> None:
    assert derive(0, "a", 1) == 3805457466603685491
    seeds = {derive(s, "a", i, j) for s in range(3) for i in range(5) for j in range(5)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_independent_of_each_other() -> None:
    first = stream(1, "x")
    stream(1, "y").random()
    assert first.random() == stream(1, "x").random()
