"""EML and MSG files as text: who wrote to whom about what, and the body.

In: the bytes of a mail and what the run carries.
Out: one page; From, To, Cc and Subject, then the plain body, or else the HTML one as text. Quoted history stays.
Refuses: encrypted mails (`E_ENCRYPTED`), too many headers (`E_LIMIT`) and parts (`E_LIMIT_DEPTH`).
Not here: attachments, which the source expands into documents of their own.
"""

import io
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.errors import HeaderParseError, MessageError
from email.message import EmailMessage
from importlib import import_module
from typing import Any, Final

from spice_enterprise.corpus.markup import html_text
from spice_enterprise.corpus.plain_text import decode, unwrapped
from spice_enterprise.corpus.reading import Notes, bad, carried_line, library

_FIELDS: Final = ("From", "To", "Cc", "Subject")
"""What a mail says of itself that is always carried: names to look for in its text, and what it is about."""
_STRUCTURE: Final = ("content-", "mime-", "received", "dkim-", "arc-", "authentication-")
_MAX_HEADERS: Final = 1_000
_MAX_HEADER_BYTES: Final = 256 << 10
_MAX_PARTS: Final = 50
_FIRST_FIELD: Final = re.compile(rb"(?:From [^\n]{0,500}\n)?[A-Za-z][A-Za-z0-9-]{0,70}[ \t]?:")
_ENCRYPTED: Final = ("application/pkcs7-mime", "application/x-pkcs7-mime", "multipart/encrypted")


def read_eml(data: bytes, notes: Notes) -> list[str]:
    """Return a mail as one page."""
    notes.parser = "email"
    if not _FIRST_FIELD.match(data.lstrip(b"\xef\xbb\xbf\r\n")):
        raise bad("E_PARSE", "no mail header at the beginning")
    _check_limits(data)
    message = message_from_bytes(data, policy=policy.default)
    _check_encrypted(message)
    bodies = [text for part in _bodies(message) if (text := _body_text(part, notes)).strip()]
    if message.defects:
        notes.flags.add("E_MAIL_DEFECT")
    if not bodies:
        return []
    return ["\n".join(_head(message, notes)) + "\n\n" + "\n\n".join(bodies)]


def _check_limits(data: bytes) -> None:
    """Count headers and boundaries before parsing: the standard library recurses once per nested part."""
    head = re.split(rb"\r?\n\r?\n", data[: _MAX_HEADER_BYTES + 4], maxsplit=1)[0]
    if len(head) > _MAX_HEADER_BYTES or len(re.findall(rb"^[!-9;-~]+:", head, re.MULTILINE)) > _MAX_HEADERS:
        raise bad("E_LIMIT", f"more than {_MAX_HEADERS} header fields")
    if data.lower().count(b"boundary=") > _MAX_PARTS or data.lower().count(b"message/rfc822") > _MAX_PARTS:
        raise bad("E_LIMIT_DEPTH", f"more than {_MAX_PARTS} nested parts")


def _check_encrypted(message: EmailMessage) -> None:
    for part in message.walk():
        # a signed mail's text is beside or inside the signature; an enveloped one has no readable text
        if part.get_content_type() in _ENCRYPTED and part.get_param("smime-type") != "signed-data":
            raise bad("E_ENCRYPTED", "the mail is encrypted")


def _head(message: EmailMessage, notes: Notes) -> Iterator[str]:
    for name in _FIELDS:
        if text := _field(message, name):
            yield f"{name}: {text}"
    if not notes.carries("headers"):
        return
    for name in dict.fromkeys(message.keys()):
        if name.title() not in _FIELDS and not name.lower().startswith(_STRUCTURE) and (text := _field(message, name)):
            yield carried_line(name, text)


def _field(message: EmailMessage, name: str) -> str:
    """Return a header field on one line; encoded words may hold line ends that would forge another field."""
    try:
        return " ".join(str(message[name] or "").split())
    except (HeaderParseError, ValueError, LookupError, IndexError, AttributeError, TypeError):
        return ""  # the standard library raises all of these on damaged fields


def _bodies(message: EmailMessage) -> list[EmailMessage]:
    """Return the readable body parts: plain text where there is some, else HTML. Attachments are not read."""
    parts = [part for part in message.walk() if not part.is_multipart() and part.get_content_disposition() != "attachment"]
    plain = [part for part in parts if part.get_content_type() == "text/plain" and _has_text(part)]
    return plain or [part for part in parts if part.get_content_type() == "text/html"]


def _has_text(part: EmailMessage) -> bool:
    payload = part.get_payload()
    return isinstance(payload, str) and bool(payload.strip())


def _body_text(part: EmailMessage, notes: Notes) -> str:
    try:
        text = str(part.get_content())
    except (LookupError, ValueError, MessageError):
        # unknown charset or broken encoding
        notes.flags.add("E_CHARSET")
        payload = part.get_payload(decode=True)
        text = decode(payload, notes) if isinstance(payload, bytes) else ""
    if part.defects:
        notes.flags.add("E_MAIL_DEFECT")
    if "\ufffd" in text:
        notes.flags.add("E_CHARSET")
    return html_text(text, notes) if part.get_content_type() == "text/html" and text.strip() else unwrapped(text)


# --- Outlook's own format ---------------------------------------------------------------------------------------------

_ENCRYPTED_CLASS: Final = "IPM.Note.SMIME"


def read_msg(data: bytes, notes: Notes) -> list[str]:
    """Return an Outlook message as one page."""
    notes.parser = library("python-oxmsg")
    message = import_module("oxmsg").Message.load(io.BytesIO(data))
    if str(message.message_class or "") == _ENCRYPTED_CLASS:
        raise bad("E_ENCRYPTED", "the mail is encrypted")
    fields = {"From": message.sender, "Subject": message.subject, **_recipients(message)}
    head = [f"{name}: {' '.join(str(fields[name]).split())}" for name in _FIELDS if fields.get(name)]
    html = message.html_body
    if isinstance(html, bytes):
        html = decode(html, notes)
    body = unwrapped(message.body) if (message.body or "").strip() else html_text(html, notes) if (html or "").strip() else ""
    return ["\n".join(head) + "\n\n" + body] if body.strip() else []


def _recipients(message: Any) -> dict[str, str]:
    headers = {str(name).title(): str(value) for name, value in dict(message.message_headers or {}).items()}
    if "To" in headers:
        return {name: headers[name] for name in ("To", "Cc") if name in headers}
    named = [f"{r.name} <{r.email_address}>" if r.name else str(r.email_address) for r in message.recipients]
    return {"To": ", ".join(named)}
