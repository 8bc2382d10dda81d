"""What stands in a value's place: per action, in every bracketed form, and invented values that are nobody's."""

import re

import pytest

from spice_enterprise.corpus.pseudonyms import COMPANY, FIRST, LAST, PLACE, candidates
from spice_enterprise.corpus.pseudonyms import LABELS as INVENTED_LABELS
from spice_enterprise.corpus.surrogates import LONG, PLACEHOLDER, Placeholders, assign, decrypt, encrypt, masked_value, render
from spice_enterprise.errors import CorpusError
from spice_enterprise.policy import PiiLabel, PiiPolicy, load_pii

KEY = b"k" * 32


def policy(action="replace", label="PERSON", *, placeholders="tenant", **rule) -> PiiPolicy:
    labels = {label: PiiLabel(action=action, **rule)}
    return load_pii().model_copy(update={"labels": labels, "placeholders": placeholders})


def placed(of: PiiPolicy, value: str, label="PERSON", *, canonical=None, document_key="d1", key=KEY) -> tuple[str, str | None]:
    """Return a value's long placeholder and its rendering."""
    maker = Placeholders(of, key)
    how = {"canonical": canonical or value, "document_key": document_key}
    return maker.placeholder(label, value, **how), maker.rendering(label, value, **how)


def never(_: str) -> bool:
    return False


def test_replace_depends_on_key_label_and_canonical_only():
    one, rendering = placed(policy(), "Weiss", canonical="anna weiss")
    assert LONG.fullmatch(one)
    assert rendering is None
    assert placed(policy(), "Anna Weiss", canonical="anna weiss", document_key="d2")[0] == one
    assert placed(policy(), "Weiss", canonical="bert weiss")[0] != one
    assert placed(policy(), "Weiss", "LOCATION", canonical="anna weiss")[0][-18:] != one[-18:]
    assert placed(policy(), "Weiss", canonical="anna weiss", key=b"x" * 32)[0] != one
    assert one == _by_hand("PERSON|anna weiss")


def _by_hand(message: str) -> str:
    import base64
    import hmac

    return f"[PERSON_{base64.b32encode(hmac.new(KEY, message.encode(), 'sha256').digest()).decode()[:16].lower()}]"


def test_documents_can_be_kept_apart():
    apart = policy(placeholders="document")
    assert placed(apart, "Weiss")[0] == placed(apart, "Weiss")[0]
    assert placed(apart, "Weiss")[0] != placed(apart, "Weiss", document_key="d2")[0]
    hashed = policy("hash", placeholders="document")
    assert placed(hashed, "Weiss")[1] != placed(hashed, "Weiss", document_key="d2")[1]


def test_drop_links_nothing():
    assert placed(policy("drop", "PASSWORD"), "hunter2", "PASSWORD") == ("[PASSWORD]", None)


def test_hash_is_keyed_and_one_for_all_mentions():
    of = policy("hash")
    one, other = placed(of, "Weiss", canonical="anna weiss"), placed(of, "Anna Weiss", canonical="anna weiss")
    assert one == other
    assert re.fullmatch(r"\[PERSON_HASH_[a-z2-7]{26}\]", one[1])
    assert placed(of, "Weiss", canonical="anna weiss", key=b"x" * 32)[1] != one[1]


@pytest.mark.parametrize(
    ("value", "keep_last", "shown"),
    [
        ("DE89 3704 0044", 4, "**** **** 0044"),
        ("123-45-6789", 0, "***-**-****"),
        ("4711", 4, "**11"),
        ("Ab", 3, "*b"),
        ("é1", 0, "**"),
    ],
)
def test_masks_leave_at_most_half(value, keep_last, shown):
    assert masked_value(value, PiiLabel(action="mask", keep_last=keep_last)) == shown


def test_encrypted_values_come_back_with_the_key_only():
    long, token = placed(policy("encrypt", "IBAN"), "DE89 3704", "IBAN")
    assert LONG.fullmatch(long)
    assert PLACEHOLDER.fullmatch(token).group(1) == "IBAN"
    assert decrypt(token, KEY) == "DE89 3704"
    changed = token.replace("IBAN", "EMAIL")
    for bad, key in ((token, b"x" * 32), (changed, KEY), ("[IBAN_ENC_zz]", KEY), (token[:-3] + "aa]", KEY), ("DE89", KEY)):
        with pytest.raises(CorpusError) as caught:
            decrypt(bad, key)
        assert caught.value.code == "E_VAULT_KEY"
    assert encrypt("x" * 5000, "IBAN", KEY) is None
    assert encrypt("x", "IBAN", KEY) == encrypt("x", "IBAN", KEY)


def test_years_and_shifted_dates():
    assert placed(policy("year", "DATE"), "17 March 2024", "DATE")[1] == "2024"
    assert placed(policy("year", "DATE"), "last week", "DATE")[1] is None
    of = policy("shift", "DATE")
    long, shown = placed(of, "17 March 2024", "DATE")
    assert re.fullmatch(r"\d{1,2} [A-Z][a-z]+ 202[345]", shown)
    assert shown != "17 March 2024"
    assert placed(of, "17 March 2024", "DATE", document_key="d2")[0] != long
    assert len({placed(of, "17 March 2024", "DATE", document_key=f"d{i}")[1] for i in range(50)}) > 40


def test_every_bracketed_form_is_seen():
    forms = [
        "[PASSWORD]", "[API_KEY]", "[PERSON_abcdef]", "[IP_ADDRESS_abcdefg]", "[PERSON_abcdefghijklmnop]",
        f"[EMAIL_HASH_{'a' * 26}]", f"[US_SSN_ENC_{'b' * 28}]",
    ]  # fmt: skip
    text = " x ".join(forms)
    assert [m.group() for m in PLACEHOLDER.finditer(text)] == forms
    assert [m.group(1) for m in PLACEHOLDER.finditer(text)][:4] == ["PASSWORD", "API_KEY", "PERSON", "IP_ADDRESS"]
    assert [m.group(1) for m in PLACEHOLDER.finditer(text)][5:] == ["EMAIL", "US_SSN"]
    for ordinary in ("[1]", "[sic]", "[PERSON_abc]", "[PERSON_abcde1]", "[A]", "[Person]"):
        assert not PLACEHOLDER.search(ordinary)


def test_tags_are_as_short_as_they_can_be_and_never_shared():
    tags = ["abcdefgaaaaaaaaa", "abcdefghaaaaaaaa", "zzzzzzaaaaaaaaaa", "zzzzzzaaaaaaaaab", "mmmmmmmmmmmmmmmm"]
    final = assign(
        [*(f"[PERSON_{t}]" for t in tags), "[EMAIL_abcdefgaaaaaaaaa]", "[PASSWORD]", "[PERSON_mmmmmm]"], policy(), never
    )
    assert final == {
        "[PERSON_abcdefgaaaaaaaaa]": "[PERSON_abcdefga]",
        "[PERSON_abcdefghaaaaaaaa]": "[PERSON_abcdefgh]",
        "[PERSON_zzzzzzaaaaaaaaaa]": "[PERSON_zzzzzzaaaaaaaaaa]",
        "[PERSON_zzzzzzaaaaaaaaab]": "[PERSON_zzzzzzaaaaaaaaab]",
        "[PERSON_mmmmmmmmmmmmmmmm]": "[PERSON_mmmmmmm]",
        "[EMAIL_abcdefgaaaaaaaaa]": "[EMAIL_abcdef]",
    }


@pytest.mark.parametrize("label", sorted(INVENTED_LABELS))
def test_invented_values_look_like_their_kind(label):
    shapes = {
        "PERSON": r"[A-Z][a-z]+ [A-Z][a-z]+",
        "ORGANIZATION": r"[A-Z][a-z]+ [A-Z][a-z]+ [A-Z][a-z]+",
        "LOCATION": r"[A-Z][a-z]+(-[A-Z][a-z]+)?",
        "ADDRESS": r"\d{1,3} [A-Z][a-z]+ [A-Z][a-z]+, [A-Z][a-z]+",
        "EMAIL": r"[a-z]+\.[a-z]+\d{1,2}@example\.(com|org)",
        "PHONE": r"\(\d{3}\) 555-01\d\d|\+44 7700 900\d{3}",
        "USERNAME": r"[a-z]+\d{2,4}",
    }
    for candidate in (c for i in range(40) for c in list(candidates(label, str(i)))[:3]):
        assert re.fullmatch(shapes[label], candidate)


def test_the_word_lists_are_long_enough_and_have_no_doubles():
    for words, least in ((FIRST, 400), (LAST, 600), (COMPANY, 400), (PLACE, 400)):
        assert len(set(words)) == len(words) >= least
    assert not set(FIRST) & set(LAST)


def test_a_taken_name_is_passed_over():
    of = policy("pseudonymise")
    long = placed(of, "Weiss")[0]
    first = assign([long], of, never)[long]
    second = assign([long], of, lambda text: text == first.split()[1])[long]
    assert first.split()[1] not in second
    assert PLACEHOLDER.fullmatch(assign([long], of, lambda _: True)[long])


def test_no_invented_value_is_given_twice():
    of = policy("pseudonymise", "LOCATION")
    longs = [placed(of, f"place {i}", "LOCATION")[0] for i in range(3_000)]
    shown = list(assign(longs, of, never).values())
    assert len(set(shown)) == len(shown)
    assert sum(text.startswith("[") for text in shown) < len(shown) / 2, "most of them still get a place"


def test_labels_without_words_keep_their_placeholder():
    of = policy("pseudonymise", "IBAN")
    long = placed(of, "DE89", "IBAN")[0]
    assert assign([long], of, never)[long] == f"{long[:12]}]"


def test_render_gives_the_offsets_of_what_stands_there_now():
    final = {"[PERSON_abcdefghijklmnop]": "Aelira Moore", "[DATE_abcdefghijklmnop]": "2024"}
    text, redactions = render("x [PERSON_abcdefghijklmnop] [PASSWORD], [DATE_abcdefghijklmnop]!", final)
    assert text == "x Aelira Moore [PASSWORD], 2024!"
    assert [(text[r.start : r.end], r.entity) for r in redactions] == [
        ("Aelira Moore", "PERSON"), ("[PASSWORD]", "PASSWORD"), ("2024", "DATE"),
    ]  # fmt: skip
