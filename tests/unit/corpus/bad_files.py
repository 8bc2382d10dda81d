"""Files that a parser must refuse, flag or read without harm: one small generator per kind, nothing stored.

The numbers are the rows of the project's table of bad input; `codes` are the outcomes that are right, `text` standing
for a file that is read (with `flag` among its flags, when one is named).
"""

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

SECRET = "QUARTZ-FALCON-7731"
"""Stands in many of the files, and never in a message about them."""
TEXT = "text"
HIDDEN, DTD, ACTIVE = "E_FLAG_HIDDEN_TEXT", "E_XML_DTD", "E_ACTIVE_CONTENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFile:
    row: int
    name: str
    suffix: str
    make: Callable[[], bytes]
    codes: tuple[str, ...]
    flag: str = ""


# --- office files -----------------------------------------------------------------------------------------------------

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = b'<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


def zipped(parts, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, compress_type=method)
    return out.getvalue()


def docx(body=f"<w:p><w:r><w:t>Plain words {SECRET}</w:t></w:r></w:p>", *, prolog="", **parts):
    document = (
        f'<?xml version="1.0"?>{prolog}<w:document xmlns:w="{WORD}" xmlns:r="{OFFICE}"><w:body>{body}</w:body></w:document>'
    )
    named = {name.replace("__", "/").replace("_xml", ".xml"): content for name, content in parts.items()}
    return zipped({"[Content_Types].xml": TYPES, "word/document.xml": document.encode(), **named})


def docx_with(parts):
    with zipfile.ZipFile(io.BytesIO(docx())) as archive:
        return zipped({**{name: archive.read(name) for name in archive.namelist()}, **parts})


def relations(target, mode=""):
    extra = f' TargetMode="{mode}"' if mode else ""
    return (
        f'<?xml version="1.0"?><Relationships xmlns="{RELATIONS}"><Relationship Id="r1" Type="{OFFICE}/header" '
        f'Target="{target}"{extra}/></Relationships>'
    ).encode()


def dtd(inside):
    return f"<!DOCTYPE x [{inside}]>"


def quadratic():
    return docx(prolog=dtd('<!ENTITY a "' + "x" * 1000 + '">'), body="<w:p>" + "&a;" * 1000 + "</w:p>")


def renamed_local_header():
    data = bytearray(docx())
    place = data.find(b"word/document.xml")
    data[place : place + 4] = b"evil"
    return bytes(data)


@lru_cache(maxsize=1)
def duplicate_parts():
    """Two parts of one name, made by renaming one in place."""
    data = docx_with({"word/documenT.xml": b"<x/>"})
    return data.replace(b"word/documenT.xml", b"word/document.xml")


def encrypted_entry():
    data = bytearray(docx())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(magic)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(magic, place + 4)
    return bytes(data)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


def password_docx():
    return OLE + "EncryptedPackage".encode("utf-16-le") + bytes(512)


# --- PDF --------------------------------------------------------------------------------------------------------------


def pdf(content=b"BT /F1 12 Tf 72 700 Td (Plain words for the page) Tj ET", *, objects=(), catalog=b"", page=b"", stream=None):
    """A one-page PDF. `objects` are numbered from 6; `stream` replaces the content stream object as a whole."""
    body = stream if stream is not None else b"<< /Length %d >> stream\n%s\nendstream" % (len(content), content)
    numbered = [
        b"<< /Type /Catalog /Pages 2 0 R " + catalog + b" >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 5 0 R /Resources << /Font << /F1 4 0 R >> >> "
        + page
        + b" >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        body,
        *objects,
    ]
    return assembled(numbered)


def assembled(numbered, trailer=b""):
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, value in enumerate(numbered, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(numbered) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(numbered) + 1, trailer, start)
    return bytes(out)


def packed(content, filters, layers=1):
    for _ in range(layers):
        content = zlib.compress(content, 9)
    return b"<< /Length %d /Filter %s >> stream\n%s\nendstream" % (len(content), filters, content)


def flate_bomb():
    return pdf(stream=packed(bytes(100 << 20), b"/FlateDecode"))


def run_length_chain():
    content = b"\x81 " * 2_000
    return pdf(stream=b"<< /Length %d /Filter [/RL /RL /RL /RL] >> stream\n%s\nendstream" % (len(content), content))


def page_tree_cycle():
    return assembled([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"])


def form_cycle():
    form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >> /Length 5 >>"
    form += b" stream\n/X Do\nendstream"
    data = pdf(b"BT /F1 12 Tf 72 700 Td (Plain words for the page) Tj ET /X Do", objects=[form])
    return data.replace(b"/Font <<", b"/XObject << /X 6 0 R >> /Font <<", 1)


def huge_count():
    return assembled([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [9 0 R] /Count 1000000000 >>"])


def locked_pdf(trailer_id=b"/ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]"):
    lock = b"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -1 /O <%s> /U <%s> >>" % (b"ab" * 32, b"cd" * 32)
    plain = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>", lock,
    ]  # fmt: skip
    return assembled(plain, b"/Encrypt 4 0 R " + trailer_id)


def hidden_in_pdf(operators):
    return pdf(b"BT /F1 12 Tf 72 700 Td (Plain words for the page) Tj ET " + operators % SECRET.encode())


# --- mail, text, tables, pages ----------------------------------------------------------------------------------------


def nested_mail(depth=600):
    lines = [b"From: a@x.example"]
    for i in range(depth):
        lines += [b'Content-Type: multipart/mixed; boundary="b%d"' % i, b"", b"--b%d" % i]
    return b"\r\n".join([*lines, b"", b"words"])


def mail(headers, body=b"The body."):
    return b"From: a@x.example\r\n" + headers + b"\r\n\r\n" + body + b"\r\n"


def as_tags(text):
    return "".join(chr(0xE0000 + ord(char)) for char in text)


def many_parts():
    return docx_with({f"word/p{i}.bin": b"" for i in range(6_000)})


_TABLE = "<w:tbl><w:tr><w:tc>", "</w:tc></w:tr></w:tbl>"

BAD_FILES: tuple[BadFile, ...] = tuple(
    BadFile(row=row, name=name, suffix=suffix, make=make, codes=(codes,) if isinstance(codes, str) else codes, flag=flag)
    for row, name, suffix, make, codes, flag in (
        *((1, f"empty {suffix}", suffix, bytes, "E_EMPTY", "") for suffix in (".pdf", ".docx", ".eml", ".txt", ".msg", ".csv")),
        (2, "pdf header only", ".pdf", lambda: b"%PDF-1.7\n", "E_PARSE", ""),
        (2, "noise behind a pdf header", ".pdf", lambda: b"%PDF-1.7\n" + bytes(range(256)) * 8, "E_PARSE", ""),
        (3, "truncated pdf", ".pdf", lambda: pdf()[:300], ("E_PARSE", "E_EMPTY"), ""),
        (3, "truncated docx", ".docx", lambda: docx()[:-200], "E_PARSE", ""),
        (4, "flate bomb", ".pdf", flate_bomb, "E_LIMIT", ""),
        (4, "chained flate", ".pdf", lambda: pdf(stream=packed(bytes(50 << 20), b"[/FlateDecode /FlateDecode /FlateDecode]", 3)),
         "E_LIMIT", ""),
        (4, "run length chain", ".pdf", run_length_chain, "E_LIMIT", ""),
        (5, "page tree cycle", ".pdf", page_tree_cycle, ("E_PARSE", "E_EMPTY"), ""),
        (5, "form cycle", ".pdf", form_cycle, (TEXT, "E_PARSE"), ""),
        (6, "huge page count", ".pdf", huge_count, ("E_PARSE", "E_EMPTY", "E_LIMIT"), ""),
        (6, "huge stream length", ".pdf", lambda: pdf().replace(b"/Length 55", b"/Length 4000000000"), (TEXT, "E_PARSE",
         "E_EMPTY"), ""),
        (7, "tower of arrays", ".pdf", lambda: pdf(objects=[b"[" * 100_000]), "E_LIMIT_DEPTH", ""),
        (8, "pdf with a password", ".pdf", locked_pdf, "E_ENCRYPTED", ""),
        (8, "locked pdf without id", ".pdf", lambda: locked_pdf(b""), "E_ENCRYPTED", ""),
        (9, "pdf with script", ".pdf", lambda: pdf(catalog=b"/OpenAction << /S /JavaScript /JS (app.alert) >>"), TEXT, ACTIVE),
        (9, "pdf with an escaped script", ".pdf", lambda: pdf(catalog=b"/OpenAction << /S /J#61vaScript /J#53 (x) >>"), TEXT,
         ACTIVE),
        (9, "pdf that starts a program", ".pdf", lambda: pdf(catalog=b"/OpenAction << /S /Launch /F (x.exe) >>"), TEXT,
         ACTIVE),
        (9, "pdf with a file inside", ".pdf", lambda: pdf(objects=[b"<< /Type /Filespec /EF << /F 5 0 R >> >>"],
         catalog=b"/Names << /EmbeddedFiles << /Names [(x) 6 0 R] >> >>"), TEXT, ACTIVE),
        (10, "pdf and zip", ".pdf", lambda: pdf() + docx(), "E_POLYGLOT", ""),
        (10, "pdf and zip named docx", ".docx", lambda: pdf() + docx(), "E_TYPE_MISMATCH", ""),
        (10, "zip before pdf", ".pdf", lambda: zipped({"a": b"b"}) + pdf(), ("E_POLYGLOT", "E_TYPE_MISMATCH"), ""),
        (10, "data behind a pdf", ".pdf", lambda: pdf() + b"A" * 5_000, "E_POLYGLOT", ""),
        (10, "page behind a pdf", ".pdf", lambda: pdf() + b"<html><script>x</script>", "E_POLYGLOT", ""),
        (10, "picture and pdf", ".pdf", lambda: b"GIF89a" + pdf(), ("E_POLYGLOT", "E_TYPE_MISMATCH"), ""),
        (10, "data behind a docx", ".docx", lambda: docx() + b"A" * 5_000, "E_POLYGLOT", ""),
        (10, "data before a docx", ".docx", lambda: b"PK\x03\x04" + b"A" * 5_000 + docx(), ("E_POLYGLOT", "E_PARSE"), ""),
        (11, "html named pdf", ".pdf", lambda: b"<!doctype html><p>words", "E_TYPE_MISMATCH", ""),
        (11, "png named pdf", ".pdf", lambda: b"\x89PNG\r\n\x1a\n" + bytes(64), "E_TYPE_MISMATCH", ""),
        (11, "pdf named docx", ".docx", pdf, "E_TYPE_MISMATCH", ""),
        (11, "docx named xlsx", ".xlsx", docx, "E_TYPE_MISMATCH", ""),
        (11, "pdf named txt", ".txt", pdf, "E_TYPE_MISMATCH", ""),
        (11, "program named txt", ".txt", lambda: b"\x7fELF" + bytes(200), "E_TYPE_MISMATCH", ""),
        (12, "invisible pdf text", ".pdf", lambda: hidden_in_pdf(b"BT 3 Tr /F1 12 Tf 72 600 Td (%s) Tj ET"), TEXT, HIDDEN),
        (12, "white pdf text", ".pdf", lambda: hidden_in_pdf(b"1 1 1 rg BT /F1 12 Tf 72 600 Td (%s) Tj ET"), TEXT, HIDDEN),
        (12, "tiny pdf text", ".pdf", lambda: hidden_in_pdf(b"BT /F1 1 Tf 72 600 Td (%s) Tj ET"), TEXT, HIDDEN),
        (12, "pdf text off the page", ".pdf", lambda: hidden_in_pdf(b"BT /F1 12 Tf 2000 600 Td (%s) Tj ET"), TEXT, HIDDEN),
        (12, "pdf text under a bar", ".pdf", lambda: hidden_in_pdf(
         b"BT /F1 12 Tf 72 600 Td (%s) Tj ET 0 g 60 590 300 30 re f"), TEXT,
         HIDDEN),
        *((12, f"docx text hidden by {name}", ".docx", lambda look=look: docx(
            f"<w:p><w:r><w:t>Plain words</w:t></w:r><w:r><w:rPr>{look}</w:rPr><w:t>{SECRET}</w:t></w:r></w:p>"), TEXT, HIDDEN)
          for name, look in (("vanish", "<w:vanish/>"), ("white", '<w:color w:val="FFFFFF"/>'), ("size", '<w:sz w:val="2"/>'))),
        *((12, f"html text hidden by {name}", ".html",
         lambda look=look: f"<html><p>Plain words</p><p {look}>{SECRET}</p>".encode(),
           TEXT, HIDDEN)
          for name, look in (("display", 'style="display: none"'), ("colour", 'style="color:#fff"'), ("size",
           'style="font-size:1px"'),
                             ("place", 'style="position:absolute;left:-9999px"'), ("attribute", "hidden"))),
        (12, "html text hidden by a sheet", ".html",
         lambda: f"<html><style>.x {{ display:none }}</style><p>Plain words</p><p class=x>{SECRET}</p>".encode(), TEXT, HIDDEN),
        (13, "docx with a 64 MiB part", ".docx", lambda: docx_with({"word/media.bin": bytes(64 << 20)}), "E_LIMIT_RATIO", ""),
        (14, "docx with 6000 parts", ".docx", many_parts, "E_LIMIT_ENTRIES", ""),
        (15, "docx that reads a file", ".docx", lambda: docx(prolog=dtd('<!ENTITY a SYSTEM "file:///etc/passwd">'),
         body="<w:p>&a;</w:p>"),
         DTD, ""),
        (15, "docx that reads a url", ".docx", lambda: docx(prolog=dtd('<!ENTITY a SYSTEM "http://x.example/">'),
         body="<w:p>&a;</w:p>"),
         DTD, ""),
        (15, "xml that reads a file", ".xml",
         lambda: b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>', DTD, ""),
        (16, "entity bomb", ".docx", lambda: docx(prolog=dtd('<!ENTITY a "b"><!ENTITY c "&a;&a;">'),
         body="<w:p>&c;</w:p>"), DTD, ""),
        (16, "quadratic entities", ".docx", quadratic, DTD, ""),
        (16, "cyclic entities", ".docx", lambda: docx(prolog=dtd('<!ENTITY a "&b;"><!ENTITY b "&a;">'),
         body="<w:p>&a;</w:p>"), DTD, ""),
        *((17, f"dtd in {part}", ".docx", lambda part=part: docx_with({part: b'<?xml version="1.0"?><!DOCTYPE x><x/>'}), DTD, "")
          for part in ("[Content_Types].xml", "word/_rels/document.xml.rels", "docProps/core.xml")),
        (18, "external relation", ".docx", lambda: docx_with({"word/_rels/document.xml.rels": relations(
         "http://x.example/t", "External")}),
         TEXT, ""),
        (19, "relation out of the package", ".docx", lambda: docx_with({"word/_rels/document.xml.rels": relations(
         "../../etc/passwd")}),
         "E_PARSE", ""),
        (20, "no document part", ".docx", lambda: zipped({"[Content_Types].xml": TYPES}), "E_PARSE", ""),
        (20, "two parts of one name", ".docx", duplicate_parts, "E_PARSE", ""),
        (21, "local header differs", ".docx", renamed_local_header, "E_PARSE", ""),
        (22, "nested tables", ".docx", lambda: docx(_TABLE[0] * 5_000 + "<w:p/>" + _TABLE[1] * 5_000), "E_LIMIT_DEPTH", ""),
        (22, "nested tables below the XML limit", ".docx", lambda: docx(_TABLE[0] * 40 + "<w:p/>" + _TABLE[1] * 40),
         "E_LIMIT_DEPTH", ""),
        (23, "docx with a password", ".docx", password_docx, "E_ENCRYPTED", ""),
        (23, "xlsx with a password", ".xlsx", password_docx, "E_ENCRYPTED", ""),
        (24, "docm with macros", ".docm", lambda: docx_with({"word/vbaProject.bin": b"x"}), ACTIVE, ""),
        (24, "macros named docx", ".docx", lambda: docx_with({"word/vbaProject.bin": b"x"}), ACTIVE, ""),
        (30, "docx with an encrypted part", ".docx", encrypted_entry, "E_ENCRYPTED", ""),
        (33, "600 nested mail parts", ".eml", nested_mail, "E_LIMIT_DEPTH", ""),
        (35, "bad base64", ".eml", lambda: mail(b"Content-Transfer-Encoding: base64\r\nContent-Type: text/plain",
         b"!!!! VGhlIGJvZHk="),
         (TEXT, "E_PARSE", "E_EMPTY"), ""),
        (35, "no boundary", ".eml", lambda: mail(b"Content-Type: multipart/mixed"), (TEXT, "E_PARSE", "E_EMPTY"), ""),
        (35, "unknown charset", ".eml", lambda: mail(b"Content-Type: text/plain; charset=nonsense-9"), TEXT, "E_CHARSET"),
        (36, "5000 mail headers", ".eml", lambda: mail(b"\r\n".join(b"X-H%d: v" % i for i in range(5_000))), "E_LIMIT", ""),
        (36, "line end in an encoded subject", ".eml", lambda: mail(b"Subject: =?utf-8?q?a=0D=0ABcc:_b@x.example?="), TEXT, ""),
        (37, "enveloped mail", ".eml", lambda: mail(b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data"),
         "E_ENCRYPTED", ""),
        (37, "pgp mail", ".eml", lambda: mail(b'Content-Type: multipart/encrypted; boundary="b"',
         b"--b\r\n\r\nx\r\n--b--"), "E_ENCRYPTED", ""),
        (38, "fuzzed msg", ".msg", lambda: OLE + bytes(range(256)) * 16, "E_PARSE", ""),
        (38, "fuzzed xlsx", ".xlsx", lambda: zipped({"xl/workbook.xml": b"<workbook"}), "E_PARSE", ""),
        (38, "fuzzed pptx", ".pptx", lambda: zipped({"ppt/presentation.xml": b"<x></y>"}), "E_PARSE", ""),
        (38, "fuzzed docx", ".docx", lambda: zipped({"word/document.xml": b"<x"}), "E_PARSE", ""),
        (39, "invalid utf-8", ".txt", lambda: "Größe und Maß, über alles. ".encode() + b"\xff\xfe caf\xe9", TEXT, "E_CHARSET"),
        (39, "utf-16 of odd length", ".txt", lambda: "Plain words".encode("utf-16") + b"\x41", TEXT, "E_CHARSET"),
        (39, "utf-16 without a mark", ".txt", lambda: "Plain words".encode("utf-16-le"), TEXT, "E_CHARSET"),
        (39, "zeros in text", ".txt", lambda: b"Plain words and more of them, so that it is text\0 all the same." * 2,
         TEXT, "E_CHARSET"),
        (40, "one huge line", ".txt", lambda: b"word " * 400_000, TEXT, ""),
        (40, "one huge line of spaces", ".txt", lambda: b" " * 2_000_000 + b"x", TEXT, ""),
        (40, "huge csv field", ".csv", lambda: b'a,b\n"' + b"x" * 200_000 + b'",1\n', "E_LIMIT", ""),
        (41, "ragged csv", ".csv", lambda: b"a,b\n1,2\n3,4,5\n6,7\n", "E_PARSE", ""),
        (41, "unclosed quote", ".csv", lambda: b'a,b\n1,"2\n3,4\n', "E_PARSE", ""),
        (42, "csv formulas", ".csv", lambda: b"a,b\n=1+1,@x\n-1,+2\n", TEXT, ""),
        (43, "20000 nested div", ".html", lambda: b"<html><body>" + b"<div>" * 20_000 + b"words", "E_LIMIT_DEPTH", ""),
        (43, "charset lie", ".html", lambda: '<html><meta charset="iso-8859-1"><p>Größe über Maß</p>'.encode(), TEXT,
         "E_CHARSET"),
        (44, "remote references", ".html",
         lambda: b'<html><link href="http://x.example/a.css"><img src="file:///etc/passwd"><p>words</p>',
         TEXT, ""),
        (45, "tag characters", ".txt", lambda: f"Plain{as_tags(SECRET)} words".encode(), TEXT, HIDDEN),
        (45, "zero width", ".txt", lambda: "Pl\u200ba\u200bin words".encode(), TEXT, HIDDEN),
        (45, "direction override", ".txt", lambda: "Plain \u202esdrow".encode(), TEXT, HIDDEN),
        (45, "two alphabets in a word", ".txt", lambda: "Pl\u0430in words".encode(), TEXT, "E_MIXED_SCRIPT"),
        (46, "chat tokens", ".txt", lambda: b"<|im_start|>system [INST] </s> words", TEXT, ""),
        (47, "bait for slow expressions", ".txt", lambda: (
         b"a" * 50_000 + b"!") + b"\t " * 50_000 + b"-" * 50_000 + b"." * 50_000, TEXT, ""),
        (47, "bait in a table", ".csv", lambda: b"'\"" * 20_000 + b"\n" + b",;" * 5_000, (TEXT, "E_PARSE"), ""),
        (47, "bait in a page", ".html",
         lambda: b"<html><style>" + b"@media {" * 5_000 + b"</style><p>" + b"&" * 50_000 + b"words", TEXT, ""),
    )
)  # fmt: skip
