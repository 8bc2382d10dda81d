import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_enterprise.corpus.people import People, linked, name_parts


def people(*names):
    known = People()
    for name in names:
        known.add(name_parts(name))
    return known


@pytest.mark.parametrize(
    "mention",
    ["Anna Weiss", "WEISS", "Ms. Weiss", "Weiss, Anna", "Anna's", "A. Weiss", "anna weiss"],
)
def test_every_mention_of_the_only_bearer_has_one_spelling(mention):
    assert people("Anna Weiss", "Karl Otter").canonical(mention) == "anna weiss"


def test_accents_hyphens_and_joined_first_names_are_one_person():
    known = people("Hans-Gerhard Bérger", "Hansgerhard Berger")
    assert {known.canonical(v) for v in ("Hansgerhard Berger", "Hans-Gerhard Bérger", "Berger")} == {"hansgerhard berger"}


def test_a_shared_name_stays_by_itself():
    known = people("Anna Weiss", "Karl Weiss")
    assert known.canonical("Weiss") == "weiss"
    assert known.canonical("K. Weiss") == "karl weiss"


def test_an_initial_is_enough_inside_a_document():
    assert people("A. Hyder").canonical("Ms. Hyder") == "a hyder"


def test_particles_belong_to_no_one():
    assert people("Gabriel Da Silva", "Maria Da Costa").canonical("Dr. Da Silva") == "gabriel da silva"


def test_linking_needs_exactly_one_fitting_person():
    names = ["anna weiss", "a weiss", "k weiss", "b hill", "bert hill", "berta hill", "hill"]
    assert linked(names) == {"a weiss": "anna weiss"}


@given(st.lists(st.sampled_from(["anna weiss", "a weiss", "karl weiss", "weiss", "k otter", "kim otter"])))
def test_links_do_not_depend_on_the_order(names):
    assert linked(names) == linked(sorted(set(names)))
