"""What the codes of a corpus mean to the person who owns the files, and what to do about each.

In: nothing.
Out: one sentence for each code, flag, kind of invisible text and reason.
Refuses: nothing; a word that is not listed gets a sentence that points to the reference.
Not here: where the codes are given (`corpus/`), the same codes for developers (`docs/reference/errors.md`).
"""

from typing import Final

QUARANTINE: Final = {
    "E_ACTIVE_CONTENT": "It holds macros. Save it in a format without them, such as .docx instead of .docm.",
    "E_DEDUP": "An earlier document has the same bytes or the same text. Nothing to do.",
    "E_EMPTY": "It has no text, or too little for one chunk. If it is a scan, run again with --set ingest.ocr=auto.",
    "E_EMPTY_AFTER_SCRUB": "Nothing was left but removed values. Nothing to do: there is nothing to learn in it.",
    "E_ENCRYPTED": "It needs a password. Save a copy without one.",
    "E_IO": "It could not be read, or changed while it was read. Check its permissions and run again.",
    "E_LANGUAGE": "It is not in the language of the PII policy, so its values cannot be found. Leave it out.",
    "E_LIMIT": "It is too large, or took too much memory or time. Split it, or raise the limit under `ingest`.",
    "E_LIMIT_DEPTH": "It is nested too deeply. Save it flat.",
    "E_LIMIT_ENTRIES": "It has too many parts. Unpack it, or save it again.",
    "E_LIMIT_RATIO": "It grows too much when it is unpacked, as a bomb does. Leave it out, or unpack it yourself.",
    "E_OCR_CONFIDENCE": "A scanned page is too hard to read. Scan it again with a higher resolution.",
    "E_PARSE": "It is damaged, or not what it claims to be. Open it, save it again, and run again.",
    "E_PATH": "It is a link, a device or a name that leads elsewhere. Copy the real file into the source.",
    "E_POLYGLOT": "It is two kinds of file in one, which hides content. Save it again as one kind.",
    "E_QUALITY": "It holds no readable prose, only numbers or broken characters. Leave it out, or convert it anew.",
    "E_RESIDUE": "A value was still readable after scrubbing. Look at the file; the PII policy may need a pattern for it.",
    "E_TYPE_MISMATCH": "Its content is not what its name says. Give it the right suffix.",
    "E_UNSUPPORTED": "No parser reads this kind of file. Convert it, or run again with --set ingest.parser=auto.",
    "E_XML_DTD": "It declares a document type, which can make a parser read other files. Save it again.",
}
"""A file that was left out."""

FLAGS: Final = {
    "E_ACTIVE_CONTENT": "Holds scripts or embedded files. They were not run and not read; the text was.",
    "E_CHARSET": "Does not have the encoding that it names. Characters may be wrong.",
    "E_FLAG_HIDDEN_TEXT": "Holds text that a reader does not see. It was dropped.",
    "E_MAIL_DEFECT": "A mail whose structure is broken. Parts of it may be missing.",
    "E_MIXED_SCRIPT": "Has words that mix alphabets, as a disguise does. Look at it.",
    "E_OCR_NEEDED": "Has scanned pages, which were not read. Run again with --set ingest.ocr=auto.",
}
"""Something odd about a file that was read all the same."""

DROPPED: Final = {
    "all_removed": "nothing but removed values",
    "garbled": "signs instead of letters, as a broken font or a bad scan gives",
    "numbers_only": "hardly any words",
    "repeated": "almost the same passage stands in the corpus already",
    "short": "too short to ask a question about",
}
"""A chunk that was left out."""

_UNKNOWN: Final = "See docs/reference/errors.md."


def for_file(code: str) -> str:
    """Return what to do about a file with this code."""
    return QUARANTINE.get(code, _UNKNOWN)


def for_flag(code: str) -> str:
    """Return what a flag says about a file."""
    return FLAGS.get(code, _UNKNOWN)


def for_chunk(reason: str) -> str:
    """Return what a reason for leaving a chunk out means."""
    return DROPPED.get(reason, "")
