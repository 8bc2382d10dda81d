"""Names beside a sign that they are names: titles, salutations, signatures, labels, initials, legal forms.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them).
"""

from typing import Final

from spice_enterprise.corpus.checks import is_initialled, is_name, is_said_name
from spice_enterprise.corpus.rule import (
    ANY_CASE,
    ANY_NAME,
    BY_LINE,
    DATE,
    FULL_NAME,
    HONORIFIC,
    INITIAL,
    NAME,
    PARTICLE,
    UPPER,
    WORD,
    Rule,
    rule,
)

NAME_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "honorific",
        "PERSON",
        rf"\b{HONORIFIC}\.? (?P<v>(?:{INITIAL} ?){{0,2}}{WORD}(?: (?:{PARTICLE} )?{WORD}){{0,2}})",
        check=is_name,
        hits=("a copy to Ms. {Gilbert} at", "Dr. {Hans Josef Karge} is"),
        misses=("Dr. of law", "Ms. The"),
    ),
    rule(
        "salutation",
        "PERSON",
        rf"\b(?:Dear|Hi|Hello|Hey|Good (?:morning|afternoon|evening)|Hallo|Liebe|Lieber|Bonjour|Cher"
        rf"|Chère)[ ,]{{1,2}}(?:{HONORIFIC}\.? )?(?P<v>{NAME})(?=\s{{0,2}}[,!:\n]|\s(?:and|und|et|&))",
        check=is_name,
        hits=("Hi {Bernt},\n", "Dear Mr. {Anton Weiss},", "Hello {Ana} and all"),
        misses=("Dear Customer,", "Hi all,"),
    ),
    rule(
        "signature",
        "PERSON",
        rf"(?:(?:[Bb]est|[Kk]ind|[Ww]arm)?(?: [Rr]egards| wishes)|Regards|Best|Thanks|Thank you|Many thanks"
        rf"|Cheers|Sincerely|Yours (?:sincerely|truly|faithfully)|Gruß|Grüße|Cordialement)"
        rf"[,.!]?\s{{0,3}}\n\s{{0,3}}(?P<v>{NAME})(?=\s{{0,3}}(?:\n|$|[|,]))",
        check=is_name,
        hits=("Thanks,\n{Claire}\n--", "Best regards\n\n{Anna van Weiss}\nCFO"),
        misses=("Thanks,\nThe Team\n",),
    ),
    rule(
        "name_label",
        "PERSON",
        rf"(?:^|(?<=[\n;|(])|(?<=[;|(] )|(?<=\. ))[ \t*\-]{{0,4}}(?:(?i:(?:full |first |last |family |given |sur"
        rf"|account holder |customer |employee |contact |patient |client |maiden )?name|employee|patient|claimant|defendant"
        rf"|plaintiff|(?:emergency |main )?contact(?: person)?|attn\.?|attention|attendees?|present|author"
        rf"|prepared by|written by|approved by|signed(?: by)?"
        rf"|reviewed by|reported by|reporter|assigned to|assignee|owner|manager|supervisor|line manager|cashier"
        rf"|bill to|ship to|sold to|payee|beneficiary|by|from|to|cc|bcc|witness"
        rf"|chair(?:man|person)?|recipient|sender|next of kin|spouse|landlord|tenant|doctor|nurse|interviewer"
        rf"|interviewee|candidate|driver|instructor|teacher))"
        rf"[*]{{0,2}}\s{{0,2}}:[*]{{0,2}}[ \t]{{0,3}}(?:{HONORIFIC}\.? )?(?P<v>{ANY_NAME})(?=\s{{0,3}}(?:$"
        rf"|[\n;,|<(\[.]| - | – |and\b))",
        flags=BY_LINE,
        check=is_name,
        hits=(
            "Name: {Ingetraut Kramer}\n",
            "Employee: {Macdonald, Karl}\n",
            "To: {Speer, Bernt} <",
            "Bill to: {NORMAN FIEBIG}\n",
            "x; Manager: {Ann Lee}; y",
        ),
        misses=("Name: Project Plan\n", "To: all\n", "Contact: see below"),
    ),
    rule(
        "name_verb",
        "PERSON",
        rf"\b(?:[Rr]eporter|[Aa]ssigned to|[Aa]pologies from|[Pp]resent:|[Pp]repared by|[Ss]igned by"
        rf"|[Aa]pproved by|[Ee]scalated? to|[Aa]ttention of|[Ww]ritten by|[Cc]/o|on behalf of|onboarding of"
        rf"|[Mm]y name is|I am called)\s"
        rf"(?:{HONORIFIC}\.? )?(?P<v>{FULL_NAME})",
        check=is_name,
        hits=("Reporter {Karl Macdonald} (", "Assigned to {R. Hall}; x", "prepared by {N. Liebelt}"),
        misses=("Assigned to the team", "on behalf of the company"),
    ),
    rule(
        "name_said",
        "PERSON",
        rf"\b(?i:(?:my|her|his|their) (?:full |last |first |maiden |middle )?name is|calls? me|this is|i am called) "
        rf"(?:{HONORIFIC}\.? )?(?P<v>{NAME})",
        score=0.75,
        check=is_said_name,
        hits=("My name is {Estrid}.", "Her maiden name is {Hyyter}!", "everyone calls me {Bo}."),
        misses=("This is The Agreement", "My name is on it", "this is Confidential"),
    ),
    rule(
        "name_called",
        "PERSON",
        rf"(?:^|(?<=[.!?] ))(?P<v>{WORD}), (?=(?:can|could|please|would|will|are|do|did|thank) )",
        score=0.7,
        flags=BY_LINE,
        check=is_said_name,
        hits=("{Vitto}, can I please", "Fine. {Dara}, please send"),
        misses=("However, can we", "Yes, please do"),
    ),
    rule(
        "name_email",
        "PERSON",
        rf"(?P<v>{ANY_NAME})\"? ?<[\w.+%\-]{{1,64}}@",
        check=is_name,
        cue="@",
        hits=("From: {Claire Delannoy} <c@x.org>", "{Speer, Bernt} <b@x.org>"),
        misses=("Support <a@x.org>",),
    ),
    rule(
        "initialled",
        "PERSON",
        rf"(?<![\w.])(?:{INITIAL} ?){{1,2}}(?:{PARTICLE} )?[{UPPER}][^\W\d_]{{2,20}}(?:-[{UPPER}][^\W\d_]{{2,20}})?",
        score=0.7,
        check=is_initialled,
        hits=("and {N. Pereira}; apologies", "{J. R. van Tolk}"),
        misses=("S. Section", "a. Beta", "A. Upon receipt"),
    ),
    rule(
        "company",
        "ORGANIZATION",
        rf"(?<![\w&])[{UPPER}][\w'’\-]{{1,30}}(?:(?:,? and |,? & |, | )[{UPPER}][\w'’\-]{{1,30}}){{0,4}},? "
        r"(?:Inc|Incorporated|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|KGaA|KG|AG|SE|SARL|S\.A\.R\.L\.|S\.A\.S\.|S\.A\."
        r"|S\.p\.A\.|S\.r\.l\.|B\.V\.|N\.V\.|Corp|Corporation|Oy|AB|A/S|Pty|Co)(?!\w)\.?",
        score=0.85,
        hits=("between {Gröttner AG}, having", "{Peron Fernandez S.A.R.L.}, of", "{Davies, Lloyd and Cooper Ltd}"),
        misses=("the AG said", "se limited"),
    ),
    rule(
        "birth",
        "DATE_OF_BIRTH",
        rf"\b(?:date of birth|birth ?(?:date|day)|DOB|D\.O\.B\.|born(?: on| in)?)[\s:]{{0,3}}(?:is |was "
        rf"|the )?(?P<v>{DATE}|(?<=born in )\d{{4}})",
        flags=ANY_CASE,
        score=0.95,
        hits=("Date of birth: {18/09/1987}", "born on {May 08, 1991}.", "born in {1960}"),
        misses=("signed on 18/09/1987", "date of birth unknown"),
    ),
)
