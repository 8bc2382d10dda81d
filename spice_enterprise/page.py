"""The look of every page that the product writes: one file, no script, nothing fetched, light and dark, fit for paper.

In: a title and the HTML of a body; scrubbed text with its redactions.
Out: a page; tables, tiles, numbers and marked text as HTML; a table as lines of text.
Refuses: nothing; every value that is passed as text is escaped.
Not here: what a page says (`report.py`, `corpus_page.py`, `corpus_review.py`), plots (`plots.py`).
"""

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from spice_enterprise.records import Redaction

BLOCK: Final = "████"
"""Stands for every removed value: of one length, since the true one would tell."""
_FORMULA: Final = ("=", "+", "-", "@", "'")
"""What makes a spreadsheet read a pasted cell as a formula."""
_HUE_STEP: Final = 137

STYLE: Final = """
:root{--ink:#182230;--soft:#5a6675;--rule:#e2e6ec;--wash:#f6f8fa;--one:#2458b8;--two:#c4560c;--pass:#17713f;--fail:#b3261e;
--inconclusive:#8a5a00;--base:#9aa7b8;--paper:#fff;color-scheme:light}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#9ba8b8;--rule:#2b3441;--wash:#171e28;--one:#6c9cf5;
--two:#ee9450;--pass:#5bc386;--fail:#ff7d74;--inconclusive:#dfae48;--base:#66748a;--paper:#0f141b;color-scheme:dark}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1020px;margin:0 auto;padding:36px 28px 64px}
h1{font-size:26px;line-height:1.2;margin:0 0 2px}
h2{font-size:18px;margin:44px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--rule)}
h3{font-size:14px;margin:22px 0 6px}
p{margin:6px 0}.soft{color:var(--soft)}span.bad{color:var(--fail)}.small{font-size:13px}
.verdict{border-left:8px solid var(--soft);background:var(--wash);padding:16px 20px;margin:22px 0}
.verdict b{font-size:30px;line-height:1.15;letter-spacing:.01em;display:block}
.pass{border-color:var(--pass)}.pass b,td .pass{color:var(--pass)}
.fail{border-color:var(--fail)}.fail b,td .fail{color:var(--fail)}
.inconclusive{border-color:var(--inconclusive)}.inconclusive b,td .inconclusive{color:var(--inconclusive)}
td .pass,td .fail,td .inconclusive{font-weight:650;white-space:nowrap}
.verdict ul{margin:8px 0 0;padding-left:20px}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;background:var(--rule);border:1px solid var(--rule)}
.tiles div{background:var(--paper);padding:12px 14px}
.tiles b{display:block;font-size:21px;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px}
th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top}
table.narrow{width:auto;min-width:min(330px,100%)}.scroll{overflow-x:auto}.scroll+.scroll{margin-top:20px}
td code.id{overflow-wrap:normal;white-space:nowrap}td bdi{display:block;min-width:150px;overflow-wrap:anywhere}
figure+.scroll{margin-top:14px}
td.n,th.n{text-align:right;white-space:nowrap}.n+:not(.n){padding-left:14px}td:last-child,th:last-child{padding-right:0}
code{font:12.5px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:22px 28px}
figure{margin:0;break-inside:avoid}figcaption{font-size:14px;font-weight:600;margin-bottom:2px}
figcaption span{font-weight:400;color:var(--soft)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg text.label{fill:var(--ink);font-size:12px}svg text.bad{fill:var(--fail)}svg line.bad{stroke:var(--fail)}
ol.road{list-style:none;margin:0;padding:0}
ol.road li{display:grid;grid-template-columns:150px 1fr;padding:5px 0;border-bottom:1px solid var(--rule)}
dl{margin:0}dt{font-weight:600;margin-top:10px}dd{margin:0}
@media (max-width:720px){.plots{grid-template-columns:1fr}.tiles{grid-template-columns:1fr 1fr}main{padding:24px 16px 48px}}
@media (max-width:560px){figure.wide{display:none}}
mark{background:hsl(var(--h) 75% 93%);color:hsl(var(--h) 80% 27%);border-radius:3px;padding:0 2px;overflow-wrap:anywhere}
mark.gone{background:none;color:var(--soft);padding:0;letter-spacing:-1px}
@media screen and (prefers-color-scheme:dark){mark{background:hsl(var(--h) 45% 19%);color:hsl(var(--h) 75% 78%)}}
.note{border-left:4px solid var(--one);background:var(--wash);padding:10px 14px;margin:16px 0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1px;background:var(--rule);border:1px solid var(--rule);margin:6px 0 18px}
.pair>div{background:var(--paper);padding:10px 12px;min-width:0}
.passage{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px;margin:2px 0 0}
section.card{border:1px solid var(--rule);padding:10px 14px;margin:14px 0;break-inside:avoid}
.boxes{display:flex;flex-wrap:wrap;gap:4px 22px;margin:10px 0 0;font-size:14px}
@media (max-width:720px){.pair{grid-template-columns:1fr}}
@media print{.pair{break-inside:avoid}p:has(+.pair),h3{break-after:avoid}
main{max-width:none;padding:0}h2{break-after:avoid}.verdict,.tiles,tr{break-inside:avoid}
body{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


def document(title: str, body: str) -> str:
    """Return a whole page around `body`, which is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def escape(value: object) -> str:
    """Return text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


def code(name: str) -> str:
    """Return a short code that is never broken across lines."""
    return f'<code class="id">{escape(name)}</code>'


def file_name(name: str) -> str:
    """Return a file's name that is harmless on a page, in a terminal and in a spreadsheet it is pasted into."""
    shown = "".join(character if character.isprintable() else "?" for character in name)
    return escape(f"'{shown}" if shown.startswith(_FORMULA) else shown)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """Return a table. Cells are HTML already; `numbers` are the columns to align right. Short ones stay narrow."""
    right = frozenset(numbers)
    head = "".join(f"<th{_align(i, right)}>{escape(name)}</th>" for i, name in enumerate(heads))
    body = "".join(f"<tr>{''.join(f'<td{_align(i, right)}>{cell}</td>' for i, cell in enumerate(row))}</tr>" for row in rows)
    narrow = ' class="narrow"' if len(heads) == 2 or right == frozenset(range(1, len(heads))) else ""
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f'<div class="scroll"><table{narrow}>{top}<tbody>{body}</tbody></table></div>'


def _align(column: int, right: frozenset[int]) -> str:
    return ' class="n"' if column in right else ""


def tiles(pairs: Iterable[tuple[object, str]]) -> str:
    """Return a band of figures, each with its name."""
    inner = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in pairs)
    return f'<div class="tiles">{inner}</div>'


def aligned(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table as lines of text, its columns under one another; without names in `heads` only the rows."""
    every = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(heads))]
    for row in every if any(heads) else every[1:]:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of words and what they mean."""
    return f"<dl>{''.join(f'<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>' for word, meaning in pairs)}</dl>"


def duration(seconds: float) -> str:
    """Return a length of time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def size_text(size_bytes: float) -> str:
    """Return a size for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / 2**10:.0f} KiB"


# --- scrubbed text ----------------------------------------------------------------------------------------------------


def hues(labels: Iterable[str]) -> dict[str, int]:
    """Return a hue for each label, far apart for neighbours in the alphabet."""
    return {label: number * _HUE_STEP % 360 for number, label in enumerate(sorted(set(labels)))}


def with_placeholders(text: str, redactions: Sequence[Redaction], hue_of: Mapping[str, int]) -> str:
    """Return scrubbed text with everything that was put in the place of a value marked in its label's colour."""
    return _marked(
        text,
        redactions,
        lambda r: (
            f'<mark style="--h:{hue_of.get(r.entity, 0)}" title="{escape(r.entity)}">{escape(text[r.start : r.end])}</mark>'
        ),
    )


def with_blocks(text: str, redactions: Sequence[Redaction]) -> str:
    """Return scrubbed text with a block of one length where a value stood."""
    return _marked(text, redactions, lambda _: f'<mark class="gone">{BLOCK}</mark>')


def _marked(text: str, redactions: Sequence[Redaction], mark: Callable[[Redaction], str]) -> str:
    parts, at = [], 0
    for redaction in sorted(redactions, key=lambda r: r.start):
        parts += [escape(text[at : redaction.start]), mark(redaction)]
        at = redaction.end
    return "".join([*parts, escape(text[at:])])
