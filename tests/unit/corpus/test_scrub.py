from dataclasses import replace

import pytest

from spice_enterprise.corpus import scrub as module
from spice_enterprise.corpus.detectors import PatternDetector
from spice_enterprise.corpus.finding import Lexicon
from spice_enterprise.corpus.people import name_parts
from spice_enterprise.corpus.quality import RunningLines
from spice_enterprise.corpus.scrub import Scrubber, Sweeper, excerpt, redactions_between, redactions_in, without_surrogates
from spice_enterprise.corpus.staging import Prepared
from spice_enterprise.corpus.surrogates import PLACEHOLDER, assign
from spice_enterprise.corpus.values import ValueIndex
from spice_enterprise.errors import ScrubError
from spice_enterprise.policy import PiiLabel, load_pii
from spice_enterprise.records import Document, Span

KEY = b"k" * 32


class Words:
    """Finds given words as whole words, under one label."""

    def __init__(self, entity="PERSON", *words, score=0.9):
        self.entity, self.words, self.score = entity, words, score

    def detect(self, text):
        spans = []
        for word in self.words:
            start = text.find(word)
            while start >= 0:
                end = start + len(word)
                spans.append(Span(start=start, end=end, entity=self.entity, score=self.score, detector="words"))
                start = text.find(word, end)
        return spans


def scrubber(detector=None, key=KEY, **changes):
    policy = load_pii()
    if changes:
        policy = policy.model_copy(update=changes)
    return Scrubber(policy, detector or PatternDetector(), key)


def swept(*texts, policy=None, names=()):
    """Return the documents in their final form, and what swept them."""
    policy = policy or load_pii()
    scrubs = [Scrubber(policy, PatternDetector(), KEY).scrub_document(text) for text in texts]
    index = ValueIndex(KEY)
    tags = set()
    for scrubbed in scrubs:
        index.add(scrubbed.entries)
        tags |= {m.group() for m in PLACEHOLDER.finditer(scrubbed.text)}
    sweeper = Sweeper(policy, KEY, index, frozenset(part for scrubbed in scrubs for part in scrubbed.name_parts))
    renderings = {k: v for scrubbed in scrubs for k, v in scrubbed.renderings}
    sweeper = sweeper.with_final({**assign(tags, policy, sweeper.is_real), **renderings})
    done = [sweeper.sweep(prepared(scrubbed), RunningLines()) for scrubbed in scrubs]
    return [sweeper.render(document.text) for document in done], sweeper, done


def prepared(scrubbed):
    return Prepared(
        document=Document(uri="a.txt", media_type="text/plain", keyed_digest="d", size_bytes=1),
        text=scrubbed.text,
        removed=scrubbed.removed,
        entries=scrubbed.entries,
        renderings=scrubbed.renderings,
        name_parts=scrubbed.name_parts,
        words=scrubbed.words,
        people=scrubbed.people,
        text_digest="t",
        isolation="none",
    )


MAIL = """From: Claire Delannoy <claire.delannoy@li.com>
To: Speer, Bernt <bernt.speer@moody.com>

Hi Bernt,

the fee of 12,500 EUR is due on 17 March 2024. Ms. Delannoy and SPEER agree; Claire's phone is +49 30 1234567.

Thanks,
Claire
"""


def test_every_mention_of_a_person_goes_under_one_placeholder():
    text = scrubber().scrub_document(MAIL).text
    for value in ("Claire", "Delannoy", "Bernt", "Speer", "SPEER", "li.com", "1234567"):
        assert value not in text
    claire, bernt = (PLACEHOLDER.findall(text), text.split("From: ")[1].split(" ")[0], text.split("To: ")[1].split(" ")[0])[1:]
    assert text.count(claire) == 4
    assert text.count(bernt) == 3
    assert claire != bernt
    assert "the fee of 12,500 EUR is due on 17 March 2024" in text


def test_placeholders_depend_on_key_and_value_only():
    first = scrubber().scrub_document("To: Anna Weiss\nmail anna@x.org").text
    second = scrubber().scrub_document("Name: WEISS, ANNA\n").text
    assert first.split("To: ")[1].split("\n")[0] == second.split("Name: ")[1].strip()
    assert first != scrubber(key=b"x" * 32).scrub_document("To: Anna Weiss\nmail anna@x.org").text


def test_in_scrubbed_text_there_is_nothing_more_to_remove():
    once = scrubber().scrub_document(MAIL)
    twice = scrubber().scrub_document(once.text)
    assert twice.removed == ()
    assert twice.text == PLACEHOLDER.sub(lambda m: f"({m.group()[1:-1].replace('_', ' ')})", once.text)


@pytest.mark.parametrize("trick", ["[LOGIN_annabrandt]", "[WEISS]", "[ANNA_WEISS]", "[PERSON_weissa]"])
def test_text_in_brackets_is_no_placeholder(trick):
    text = f"Name: Anna Weiss\nThe account {trick} belongs to Anna Brandt; login annabrandt.\nName: Anna Brandt\n"
    out = scrubber().scrub_document(text).text
    assert trick not in out
    assert "weiss" not in out.lower() or trick == "[PERSON_weissa]"
    assert trick not in scrubber().scrub_name(f"{trick}.txt")


def test_what_a_policy_names_leaves_file_names_too_however_short():
    labels = load_pii().labels | {"ORGANIZATION": PiiLabel(deny=("Project Kestrel", "C++"))}
    run = scrubber(labels=labels)
    assert run.scrub_name("Project Kestrel offer.txt").startswith("[ORGANIZATION_")
    assert run.scrub_document("written in C++ there").text.startswith("written in [ORGANIZATION_")


def test_an_invented_value_has_no_word_of_a_real_one():
    _, sweeper, _ = swept("Name: Anna Weiss\nof Nordheim Ltd.\n")
    scrubbed = Scrubber(load_pii(), Words("LOCATION", "Lindheim"), KEY).scrub_document("in Lindheim")
    other = Sweeper(load_pii(), KEY, ValueIndex(KEY), frozenset(), frozenset(scrubbed.words))
    assert other.is_real("Lindheim")
    assert other.is_real("New Lindheim")
    assert not other.is_real("Nordheim")
    assert sweeper.is_real("Weiss Group")


def test_redactions_point_at_the_placeholders_and_counts_at_what_went():
    scrubbed = scrubber().scrub_document("mail a.b@x.org and c.d@y.org, IP 10.1.2.3")
    found = redactions_in(scrubbed.text)
    assert [scrubbed.text[r.start : r.end].split("_")[0] for r in found] == ["[EMAIL", "[EMAIL", "[IP"]
    assert scrubbed.removed == (("EMAIL", 2), ("IP_ADDRESS", 1))
    assert "x.org" not in repr(scrubbed)


def test_secrets_get_a_placeholder_that_links_nothing():
    text = scrubber().scrub_document("password: hunter2! CANARY-0123456789abcdef").text
    assert text == "password: [PASSWORD] [CANARY]"


def test_the_policy_decides_what_is_kept():
    labels = {"PERSON": PiiLabel(action="keep"), "EMAIL": PiiLabel()}
    assert scrubber(labels=labels).scrub_document("Dr. Anna Weiss, a@x.org").text.startswith("Dr. Anna Weiss, [EMAIL_")
    allowed = scrubber(Words("ORGANIZATION", "Kubernetes 1.30", "Acme Group"), allow=("kubernetes",))
    assert allowed.scrub_document("Kubernetes 1.30 at Acme Group").text.startswith("Kubernetes 1.30 at [ORGANIZATION_")


def test_scores_below_the_threshold_are_left():
    labels = {"PERSON": PiiLabel(threshold=0.8)}
    assert scrubber(Words("PERSON", "Weiss", score=0.7), labels=labels).scrub_document("Weiss came").text == "Weiss came"


def test_a_label_the_policy_does_not_know_is_replaced():
    assert scrubber(Words("BADGE", "B77")).scrub_document("pass B77").text.startswith("pass [BADGE_")


def test_overlaps_leave_nothing_of_either_value():
    class Both:
        def detect(self, text):
            if "Weiss" not in text:
                return []
            return [
                Span(start=0, end=10, entity="PERSON", score=0.85, detector="a"),
                Span(start=5, end=20, entity="ORGANIZATION", score=0.8, detector="b"),
            ]

    text = scrubber(Both()).scrub_document("Anna Weiss Consulting pays").text
    assert not any(part in text for part in ("Anna", "Weiss", "Consult "))
    assert "PERSON" in text
    assert "ORGANIZATION" in text


def test_an_ordinary_word_found_as_a_name_is_not_spread():
    text = (
        scrubber(Words("PERSON", "Grant Hill")).scrub_document("Grant Hill asked for a grant. Hill left. The Grant is paid.").text
    )
    assert "a grant." in text
    assert "Hill" not in text


def test_a_detector_that_never_stops_is_refused(monkeypatch):
    class Endless:
        def __init__(self):
            self.calls = 0

        def detect(self, text):
            self.calls += 1
            start = text.find(f"w{self.calls:02}")
            return [Span(start=start, end=start + 3, entity="USERNAME", score=1.0, detector="x")] if start >= 0 else []

    endless = Endless()
    monkeypatch.setattr(module, "PatternDetector", lambda: endless)
    text = " ".join(f"w{i:02}" for i in range(40)) + " CANARY"
    with pytest.raises(ScrubError, match="4 passes") as caught:
        scrubber(endless).scrub_document(text)
    assert caught.value.code == "E_RESIDUE"
    assert "CANARY" not in caught.value.explain()


def test_the_model_reads_each_document_once():
    class Counting(Words):
        calls = 0

        def detect(self, text):
            self.calls += 1
            return super().detect(text)

    counting = Counting("PERSON", "Weiss")
    scrubber(counting).scrub_document("Weiss wrote to a.b@x.org")
    assert counting.calls == 1


def test_what_one_document_shows_is_swept_from_the_others():
    quiet, shown = "later anna weiss and AB-77123 met", "Name: Anna Weiss\nEmployee no.: AB-77123\n"
    (first, second), sweeper, done = swept(quiet, shown)
    assert sweeper.survivors(quiet) == 2
    assert sweeper.survivors(first.text) == sweeper.survivors(second.text) == 0
    assert done[0].removed == (("EMPLOYEE_ID", 1), ("PERSON", 1))
    assert first.text.startswith("later [PERSON_")
    assert first.text.split()[1] in second.text


def test_what_the_policy_allows_is_not_swept():
    policy = load_pii().model_copy(update={"allow": ("Anna Weiss",)})
    (first, _), sweeper, _ = swept("later Anna Weiss met", "Name: Anna Weiss\n", policy=policy)
    assert first.text == "later Anna Weiss met"
    assert sweeper.survivors(first.text) == 0


def test_file_names_lose_what_is_found_in_them_or_in_the_documents():
    assert scrubber().scrub_name("a/E-90184_review.pdf").endswith("_review.pdf")
    assert "90184" not in scrubber().scrub_name("a/E-90184_review.pdf")
    _, sweeper, _ = swept("Name: Anna Weiss\n")
    assert sweeper.name("weiss_2024.txt") == "[PERSON]_2024.txt"
    assert sweeper.name(sweeper.name("weiss_2024.txt")) == "[PERSON]_2024.txt"
    assert "weiss" not in sweeper.name("notes.weiss").lower()
    assert sweeper.name("scans/anna-weiss.pdf").startswith("scans/[PERSON_")


def test_a_model_that_guesses_organisations_in_file_names_is_not_heard():
    class Guess(Words):
        def detect(self, text):
            return [replace(span, detector="spacy") for span in super().detect(text)]

    assert scrubber(Guess("ORGANIZATION", "ocr")).scrub_name("ocr_test.pdf") == "ocr_test.pdf"
    assert scrubber(Guess("PERSON", "Weiss")).scrub_name("Weiss.pdf").startswith("[PERSON_")


def test_pages_keep_their_place():
    (document,), _, _ = swept("mail a.b@x.org\fsecond\fthird")
    assert [document.text[s : s + 6] for s in document.page_starts] == ["mail [", "second", "third"]
    assert "\f" not in document.text


def test_what_the_policy_leaves_readable_is_a_redaction_too():
    labels = load_pii().labels | {"CREDIT_CARD": PiiLabel(action="mask", keep_last=4), "EMAIL": PiiLabel(action="pseudonymise")}
    policy = load_pii().model_copy(update={"labels": labels})
    (document,), _, _ = swept("card 4111 1111 1111 1111 of a.b@x.org", policy=policy)
    card, mail = (document.text[r.start : r.end] for r in document.redactions)
    assert card == "**** **** **** 1111"
    assert "@example." in mail
    hidden = without_surrogates(document.text, document.redactions)
    assert len(hidden) == len(document.text)
    assert "1111" not in hidden
    assert "@" not in hidden


def test_redactions_of_a_part_count_from_its_start():
    (document,), _, _ = swept("mail a.b@x.org and c.d@y.org now")
    part = redactions_between(document.redactions, 5, len(document.text))
    assert [r.start for r in part] == [0, document.redactions[1].start - 5]
    assert len(redactions_between(document.redactions, 6, len(document.text))) == 1


def test_lexicon_sees_through_punctuation_and_case_but_not_far_apart():
    lexicon = Lexicon()
    lexicon.add("18/09/1987", "DATE_OF_BIRTH")
    lexicon.add("Anna Weiss", "PERSON")
    lexicon.add("Acme Group", "ORGANIZATION")
    texts = ("18.09.1987", "ANNA-WEISS", "anna weiss", "anna Weiss", "anna. weiss", "Anna     Weiss", "acme group", "ACME Group")
    assert [text for text in texts if list(lexicon.find(text))] == ["18.09.1987", "ANNA-WEISS", "anna weiss", "ACME Group"]


def test_name_parts_put_the_first_name_first():
    assert name_parts("Dr. Speer, Bernt") == ["bernt", "speer"] or name_parts("Speer, Bernt") == ["bernt", "speer"]
    assert name_parts("Bernt Speer's") == ["bernt", "speer"]


def test_excerpts_carry_their_own_redactions():
    text = scrubber().scrub_document("mail a.b@x.org now").text
    part = excerpt(text, 5, len(text))
    assert [r.start for r in redactions_in(part)] == [0]


def test_the_stable_entry_points_use_the_default_policy(monkeypatch):
    default = scrubber()
    monkeypatch.setattr(module, "_default_scrubber", lambda path: default)
    text = "Dear Ms. Weiss, call 10.1.2.3"
    assert [(text[a:b], label) for a, b, label in module.detect(text)] == [("Weiss", "PERSON"), ("10.1.2.3", "IP_ADDRESS")]
    assert PLACEHOLDER.findall(module.scrub(text)) == ["PERSON", "IP_ADDRESS"]
    assert module.scrub("Weiss") == "Weiss"


def test_only_scrub_makes_scrubbed_text():
    """`ScrubbedText(...)` is called in one module of the package."""
    from pathlib import Path

    package = Path(module.__file__).parents[1]
    makers = {p.name for p in package.rglob("*.py") if "ScrubbedText(" in p.read_text(encoding="utf-8")}
    assert makers == {"scrub.py"}
