"""Secrets and things of the net: mail addresses, logins, keys, passwords, network addresses.

In: nothing; a table.
Out: rules.
Refuses: nothing.
Not here: how a rule is run (`rule.py`), the other tables (`detectors.py` joins them).
"""

from typing import Final

from spice_enterprise.corpus.checks import is_ip, is_secret, is_user
from spice_enterprise.corpus.rule import ANY_CASE, Rule, rule

SECRET_RULES: Final[tuple[Rule, ...]] = (
    rule(
        "canary",
        "CANARY",
        r"\bCANARY-[0-9A-Fa-f]{8,64}\b",
        score=1.0,
        cue="canary-",
        hits=("see {CANARY-0123456789abcdef} here",),
        misses=("the canary-yellow paint", "CANARY-xyz"),
    ),
    rule(
        "email",
        "EMAIL",
        r"(?<![\w.+%\-])[\w.+%\-]{1,64}@(?:[\w\-]{1,63}\.){1,6}[^\W\d_]{2,24}",
        score=1.0,
        cue="@",
        hits=("to {anna.weiss+x@mail.example.co.uk}.", "<{a_b@x-y.org}>"),
        misses=("meet @ noon", "user@host", "a@b"),
    ),
    rule(
        "email_spelled",
        "EMAIL",
        r"\b[\w.\-]{2,40}\s?[\[(]\s?at\s?[\])]\s?[\w\-]{2,40}(?:\s?(?:[\[(]\s?dot\s?[\])]|\.)\s?[A-Za-z]{2,12}){1,3}",
        flags=ANY_CASE,
        cue="at",
        hits=("write {anna.weiss (at) example (dot) com} now", "{anna[at]example.com}"),
        misses=("look (at) this",),
    ),
    rule(
        "url_credentials",
        "URL_CREDENTIALS",
        r"\b[a-z][a-z0-9+.\-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,128}@[^\s\"'<>)\]]{1,256}",
        score=1.0,
        flags=ANY_CASE,
        cue="://",
        hits=("dsn {postgres://app:s3cr3t@db.local:5432/x} ok",),
        misses=("https://example.com:8080/a@b",),
    ),
    rule(
        "url",
        "URL",
        r"\b(?:https?://|ftp://|www\.)[^\s<>\"'()\[\]{}|]{3,300}[\w/]",
        score=0.8,
        flags=ANY_CASE,
        hits=("see {https://www.example.org/a/b?x=1}.", "at {www.example.org},"),
        misses=("http is old", "www"),
    ),
    rule(
        "profile_url",
        "USERNAME",
        r"\b(?:linkedin\.com/in|github\.com|twitter\.com|x\.com|facebook\.com)/(?P<v>[\w.\-]{3,40})",
        flags=ANY_CASE,
        cue=".com/",
        hits=("see linkedin.com/in/{anna-weiss}",),
        misses=("linkedin.com/jobs",),
    ),
    rule(
        "private_key",
        "API_KEY",
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{1,8192}-----END [A-Z ]{0,30}PRIVATE KEY-----",
        score=1.0,
        cue="private key",
        hits=("{-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----}",),
        misses=("the PRIVATE KEY is safe",),
    ),
    rule(
        "known_key",
        "API_KEY",
        r"\b(?:sk-[\w\-]{16,200}|gh[pousr]_\w{20,255}|github_pat_\w{20,255}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w\-]{10,200}"
        r"|AIza[\w\-]{30,60}|glpat-[\w\-]{16,64}|eyJ[\w\-]{10,2000}\.[\w\-]{10,4000}\.[\w\-]{10,2000})",
        score=1.0,
        hits=("token={sk-Uc4mlADxXxz8mNkgG0au7f13}", "{AKIAIOSFODNN7EXAMPLE}"),
        misses=("a sk-ill", "AKIA is a prefix"),
    ),
    rule(
        "prefixed_key",
        "API_KEY",
        r"\b[a-z]{2,8}_(?:test|live|prod|dev|sk|pk|key)_[A-Za-z0-9]{16,128}\b",
        score=1.0,
        cue="_",
        hits=("API key of the test system: {hmk_test_e60e7a79db70030eba4b287857662b06}.", "{pay_live_4eC39HqLyjWDarjtT1zdp7dc}"),
        misses=("unit_test_results", "a pre_prod_environment"),
    ),
    rule(
        "long_hex",
        "API_KEY",
        r"(?<![\w-])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{32,128}(?![\w-])",
        score=0.9,
        hits=("the token is {e60e7a79db70030eba4b287857662b06}",),
        misses=("deadbeef", "12345678901234567890123456789012"),
    ),
    rule(
        "labelled_key",
        "API_KEY",
        r"\b(?:api[_ \-]?key|access[_ \-]?key|secret(?:[_ \-]key)?|client[_ \-]secret|auth[_ \-]?token|token|bearer)"
        r"(?:\s{0,2}[:=]\s{0,2}|\s{1,2})[\"']?(?P<v>[\w\-./+]{12,512}=?=?)",
        flags=ANY_CASE,
        check=is_secret,
        hits=("api_key = '{a8f5f167f44f4964e6c998de}'", "Bearer {abcDEF123456ghi}"),
        misses=("token of appreciation", "the secret ingredientsoffood"),
    ),
    rule(
        "password_set",
        "PASSWORD",
        r"\b(?:password|passwd|passcode|pwd|passphrase)\s{0,2}[:=]\s{0,2}(?P<v>\S{3,64})",
        score=0.95,
        flags=ANY_CASE,
        hits=("Password: {hunter2}", "pwd={x!9}"),
        misses=("the password policy", "password, please"),
    ),
    rule(
        "password_said",
        "PASSWORD",
        r"\b(?:password|passwd|passcode|passphrase)\s{1,2}(?:is|was|to)?\s{0,2}(?P<v>[^\s,;]{4,64})",
        flags=ANY_CASE,
        check=is_secret,
        cue="pass",
        hits=("password was {@ROz%ETS1vP7} (rotate!)", "password {w&v+iMj5aj3D}"),
        misses=("password is required", "password reset"),
    ),
    rule(
        "pin",
        "PASSWORD",
        r"\bPIN(?: code)?\s{0,2}(?::|=|is|was)\s{0,2}(?P<v>\d{4,8})\b",
        cue="pin",
        hits=("PIN: {4711}",),
        misses=("PIN 3 of the connector",),
    ),
    rule(
        "mac",
        "MAC_ADDRESS",
        r"(?<![\w:\-])(?:[0-9A-Fa-f]{2}([:\-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:\-])",
        hits=("adapter {9a:bd:6c:2c:01:f7}.",),
        misses=("9a:bd:6c", "12:30:45"),
    ),
    rule(
        "ipv4",
        "IP_ADDRESS",
        r"(?<![\w.])(?<!version )(?<!v)\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d|\w)",
        check=is_ip,
        hits=("from {219.241.76.123} with",),
        misses=("version 4.11.2.8", "127.0.0.1", "999.1.1.1", "4.11.2"),
    ),
    rule(
        "ipv6",
        "IP_ADDRESS",
        r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,7}(?![\w:])",
        check=is_ip,
        cue=":",
        hits=("from {2001:db8::8a2e:370:7334} at",),
        misses=("at 12:30:45", "ratio 1:2:3"),
    ),
    rule(
        "username",
        "USERNAME",
        r"\b(?:user(?:[ _\-]?(?:name|id))?|login(?:[ _\-]?(?:name|id))?|account name|screen name|handle|slack"
        r"|skype|AD login)"
        r"(?:\s{0,2}[:=]\s{0,2}|\s(?:is\s|was\s)?)[\"'@]?(?P<v>(?=[\w.\-]{0,31}[\d._\-])[A-Za-z][\w.\-]{2,31}\w)",
        flags=ANY_CASE,
        check=is_user,
        hits=(
            "Audit login: user name {ptredwell12}, password",
            "user={kcannon44} token",
            "the AD login {kcannon44}. Please",
            "username: {anna.weiss}",
        ),
        misses=("user interface", "login page", "user manual"),
    ),
    rule(
        "username_brackets",
        "USERNAME",
        r"\((?P<v>[a-z]{3,20}[._]?\d{1,4})\)",
        score=0.7,
        cue="(",
        hits=("Karl ({kmacdonald96}) connecting",),
        misses=("(b12)", "(see 12)"),
    ),
    rule(
        "handle",
        "USERNAME",
        r"(?<![\w@./])@(?P<v>[A-Za-z][\w.]{2,29}\w)",
        score=0.6,
        cue="@",
        hits=("ping @{anna_weiss} today",),
        misses=("a@b.com", "@ 12"),
    ),
)
