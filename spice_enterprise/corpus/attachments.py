"""The files attached to a mail, each with a plain name.

In: the bytes of an `.eml` or `.msg` file; called through `archives.expand`.
Out: (name, bytes) pairs in the order of the mail. An attached mail is one file: what it carries comes out of it in turn.
Refuses: mails of more nested parts than any program writes (`ParseError`).
Not here: the mail's own text (`parsers.py`). Pictures within the text and signatures are no attachments.
"""

import io
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from importlib import import_module
from typing import Final

from spice_enterprise.errors import ParseError

_MAX_MAIL_PARTS: Final = 50
_SIGN_OF_A_FILE: Final = re.compile(rb"^(?:content-(?:type|disposition):|[ \t])[^\n]*name|attachment|message/rfc822", re.I | re.M)
_NOT_CARRIED: Final = frozenset({
    "application/pgp-encrypted", "application/pgp-signature", "application/pkcs7-mime", "application/pkcs7-signature",
    "application/x-pkcs7-mime", "application/x-pkcs7-signature",
})  # fmt: skip
"""Signatures, and encrypted content, which is what the mail's own parser refuses."""


_AS_WRITTEN: Final = policy.default.clone(refold_source="none")
_PID_ATTACH_CONTENT_ID: Final = 0x3712


def may_carry(data: bytes) -> bool:
    """True unless an `.eml` file certainly has no attachments; most mails need no child process to find that out."""
    return _SIGN_OF_A_FILE.search(data) is not None


def of_eml(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the attachments of a mail. What is no mail at all has none: its own parser says so."""
    if data.lower().count(b"boundary=") > _MAX_MAIL_PARTS:
        raise ParseError(f"more than {_MAX_MAIL_PARTS} nested parts", code="E_LIMIT_DEPTH")
    message = message_from_bytes(data, policy=policy.default)
    seen: set[str] = set()
    for part in _attached(message):
        content = _content(part)
        if content is not None:
            yield _attachment_name(_name_of(part), seen), content


def _attached(message: Message) -> Iterator[Message]:
    """Yield the parts that are files of their own. An attached mail is one file: its parts are not descended into."""
    if message.get_content_maintype() == "multipart":
        for part in message.iter_parts() if isinstance(message, EmailMessage) and message.is_multipart() else ():
            yield from _attached(part)
    elif _is_file(message) and message.get_content_type() not in _NOT_CARRIED:
        yield message


def _is_file(part: Message) -> bool:
    """True for what a reader would see as an attached file, not as the mail's text or a picture in it."""
    if part.get_content_maintype() == "image" and part["Content-ID"]:
        return False
    if part.get_content_type() == "message/rfc822" or part.get_content_disposition() == "attachment":
        return True
    return part.get_filename() is not None and part.get_content_maintype() not in ("text", "image")


def _content(part: Message) -> bytes | None:
    """Return an attachment's bytes; for an attached mail the mail as it was written."""
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        return inner[0].as_bytes(policy=_AS_WRITTEN) if isinstance(inner, list) and isinstance(inner[0], Message) else None
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else None


def _name_of(part: Message) -> str:
    if part.get_content_type() == "message/rfc822":
        return "mail.eml"
    return str(part.get_filename() or "attachment")


def of_msg(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the attachments of an Outlook mail. One that is not stored in it as bytes comes out empty, to be seen and counted."""
    if not data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return
    message = import_module("oxmsg").Message.load(io.BytesIO(data))
    seen: set[str] = set()
    for attachment in message.attachments:
        if str(attachment.mime_type).startswith("image/") and attachment.properties.str_prop_value(_PID_ATTACH_CONTENT_ID):
            continue
        yield _attachment_name(str(attachment.file_name or "attachment"), seen), bytes(attachment.file_bytes or b"")


def _attachment_name(name: str, seen: set[str]) -> str:
    """Return a plain file name that no other attachment has: whatever path a sender wrote, the last step counts."""
    plain = re.split(r"[/\\:]", name)[-1].strip(" .") or "attachment"
    stem, dot, suffix = plain.rpartition(".")
    numbered, number = plain, 1
    while numbered in seen:
        number += 1
        numbered = f"{stem} {number}.{suffix}" if dot else f"{plain} {number}"
    seen.add(numbered)
    return numbered
