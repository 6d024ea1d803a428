"""Results as HTML: a page for each submission and one for the class. Each is a single file that loads nothing.

Names and feedback come from submissions and are hostile: all text goes through `shown`, and the pages forbid the
browser everything but their own style and, by its hash, the one script (it sorts a table that is complete without it).
The pages are the instructor's: they show hidden items and flags.
"""

import base64
import hashlib
import html
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from .page_style import SORT, STYLE
from .results import PARTS, ItemResult, Part, Result, points

LINES = 6  # of feedback on a part that are shown at once; the others unfold
LONG = 600  # characters of one line that are shown at once
BINS = 10  # of the histogram
SMALLEST = "smallest failing input: "


def submission_page(result: Result) -> str:
    """The page of one submission: its points, and for each item what was wrong, why, and what to look at yourself."""
    body = [
        f"<p class='quiet'>{shown(result.assignment)}</p>",
        f"<h1>{shown(result.submission)}</h1>",
        f"<p class='score'>{points(result.points)} of {points(result.possible)} points</p>",
        f"<p class='quiet'>seed {result.seed} · graded in {result.seconds:.1f} s</p>",
    ]
    if not result.finished:
        body.append(_box("error", "Not finished.", f"{_count(len(result.items), 'item')} graded so far."))
    if result.error:
        body.append(_box("error", "Could not be graded.", result.error))
    if result.items:
        rows = [_summary_row(item, number) for number, item in enumerate(result.items, 1)]
        body.append("<h2>Items</h2>" + _table(_head("item", *PARTS, "points"), rows, "fit"))
    body += [_item(item, number) for number, item in enumerate(result.items, 1)]
    if result.printed:
        body.append(
            f"<h2>What it printed</h2><details><summary>show</summary><pre>{shown(result.printed)}</pre></details>"
        )
    if result.notes:
        body.append(f"<h2>Isolation on this system</h2>{_list(result.notes)}")
    return _page(f"{result.submission}: {points(result.points)} of {points(result.possible)}", body)


def class_page(results: Sequence[Result], links: Mapping[str, str]) -> str:
    """The page of the class.

    `links` has for a submission's name the file of its page, relative to this one; a name without one is not linked.
    ValueError if there are no results.
    """
    if not results:
        raise ValueError("class_page: there are no results")
    possible = max(result.possible for result in results)
    scores = [result.points for result in results]
    mean, median = points(statistics.mean(scores)), points(statistics.median(scores))
    body = [
        f"<h1>{shown(results[0].assignment)}</h1>",
        f"<p class='score'>{_count(len(results), 'submission')}, mean {mean} of {points(possible)} points</p>",
        f"<p>median {median}, lowest {points(min(scores))}, highest {points(max(scores))}</p>",
        f"<h2>Scores</h2>{_histogram(scores, possible)}",
        f"<h2>Items</h2>{_items_table(results)}",
        f"<h2>Likely causes</h2>{_causes_table(results)}",
        f"<h2>Conventions</h2>{_conventions_table(results)}",
        f"<h2>For you to look at</h2>{_flags(results, links)}",
        f"<h2>Submissions</h2>{_submissions_table(results, links)}",
    ]
    notes = Counter(note for result in results for note in result.notes)
    if notes:
        lines = [f"{note} ({_count(times, 'submission')})" for note, times in notes.items()]
        body.append(f"<h2>Isolation on this system</h2>{_list(lines)}")
    return _page(f"{results[0].assignment}: {_count(len(results), 'submission')}", body, SORT)


def shown(text: str) -> str:
    r"""Text for HTML. What a page does not show as a mark of its own (control characters, lone surrogates, marks that
    turn the direction of writing) is written as its escape.

    >>> shown("<b>\x00\u202eabc")
    '&lt;b&gt;\\x00\\u202eabc'
    """
    plain = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    return html.escape("".join(plain))


# -- a submission ------------------------------------------------------------------------------------------------------


def _summary_row(item: ItemResult, number: int) -> str:
    parts = {part.name: part for part in item.parts}
    cells = [_mark(parts[name], of="/") if name in parts else "" for name in PARTS]
    flag = " ⚑" if item.flags else ""
    return _row(f"<a href='#item-{number}'>{shown(item.name)}</a>{flag}", *cells, _mark(item, of="/"))


def _item(item: ItemResult, number: int) -> str:
    out = [f"<section class='card' id='item-{number}'>"]
    out.append(f"<h2><span>{shown(item.name)}</span><span>{_mark(item, words=True)}</span></h2>")
    if item.convention:
        verdict = "" if item.accepted else " <strong class='bad'>✗ not accepted</strong>"
        out.append(f"<p class='quiet'>convention: {shown(item.convention)}{verdict}</p>")
    if item.visibility != "visible":
        out.append(f"<p class='quiet'>visibility: {shown(item.visibility.replace('_', ' '))}</p>")
    out += [_box("flag", "⚑ For the instructor:", flag) for flag in item.flags]
    if item.causes:
        word = "cause" if len(item.causes) == 1 else "causes"
        out.append(f"<p><strong>Likely {word}:</strong> {shown('; '.join(item.causes))}</p>")
    for part in item.parts:
        if part.lines or not part.passed:
            out.append(f"<h3>{shown(part.name)} {_mark(part)}</h3>{_feedback(part.lines)}")
    if not item.passed and item.correct:
        said = {True: "<span class='good'>✓ yes</span>", False: "<span class='bad'>✗ no</span>", None: "not known"}
        rows = [_row(shown(n), said[right], said[item.consistent.get(n)]) for n, right in item.correct.items()]
        head = _head("gradient of", "right", "right for its own forward")
        out.append(f"<details><summary>each gradient</summary>{_table(head, rows, 'fit')}</details>")
    return "".join(out) + "</section>"


def _feedback(lines: Sequence[str]) -> str:
    """Lines as a list: an indented line belongs to the one before it, code has a box, what is long unfolds."""
    groups: list[list[str]] = []
    for line in lines:
        if line.startswith("  ") and groups:
            groups[-1].append(line)
        else:
            groups.append([line])
    entries = [f"<li>{_entry(first, rest)}</li>" for first, *rest in groups]
    if len(entries) <= LINES + 1:
        return f"<ul>{''.join(entries)}</ul>" if entries else ""
    more = f"<details><summary>{len(entries) - LINES} more</summary><ul>{''.join(entries[LINES:])}</ul></details>"
    return f"<ul>{''.join(entries[:LINES])}</ul>{more}"


def _entry(first: str, rest: list[str]) -> str:
    if first.startswith(SMALLEST):
        first, rest = SMALLEST.rstrip(": "), [first.removeprefix(SMALLEST), *rest]
    code = f"<pre>{shown(chr(10).join(rest))}</pre>" if rest else ""
    if len(first) > LONG:
        return f"<details><summary>{shown(first[: LONG // 4])}…</summary><pre>{shown(first)}</pre></details>{code}"
    return shown(first) + code


# -- the class ---------------------------------------------------------------------------------------------------------


def _histogram(scores: Sequence[float], possible: float) -> str:
    """How many scores lie in each tenth of the points; the full score counts in the last."""
    bins = Counter(min(max(int(BINS * score / possible), 0), BINS - 1) if possible > 0 else 0 for score in scores)
    edges = [points(possible * k / BINS) for k in range(BINS + 1)]
    width, height, foot, tallest = 30, 120, 40, max(bins.values())
    said = "; ".join(f"{edges[k]} to {edges[k + 1]} points: {bins[k]}" for k in range(BINS) if bins[k])
    box = f"0 0 {width * (BINS + 1)} {height + foot + 20}"
    out = [f"<svg viewBox='{box}' role='img' aria-label='Number of submissions. {said}'>"]
    for k in range(BINS):
        left, tall = width * (k + 0.5), height * bins[k] / tallest
        if bins[k]:
            out.append(
                f"<rect x='{left + 2}' y='{height + 20 - tall:.1f}' width='{width - 4}' height='{tall:.1f}'></rect>"
            )
            out.append(f"<text x='{left + width / 2}' y='{height + 15 - tall:.1f}'>{bins[k]}</text>")
    out.append(f"<line x1='{width / 2}' x2='{width * (BINS + 0.5)}' y1='{height + 20}' y2='{height + 20}'></line>")
    out += [f"<text x='{width * (k + 0.5)}' y='{height + 35}'>{edges[k]}</text>" for k in range(0, BINS + 1, 2)]
    out.append(f"<text x='{width * (BINS + 1) / 2}' y='{height + 53}'>points</text></svg>")
    return "".join(out)


def _items_table(results: Sequence[Result]) -> str:
    """The items, those that most submissions fail first."""
    rows = []
    for name in _item_names(results):
        items = [item for result in results for item in result.items if item.name == name]
        failed = sum(not item.passed for item in items)
        by_part = Counter(part.name for item in items for part in item.parts if not part.passed)
        mean = f"{points(statistics.mean(i.points for i in items))} of {points(max(i.possible for i in items))}"
        bar = _bar(failed / len(items), f"{failed} of {len(items)}")
        rows.append((-failed / len(items), _row(shown(name), bar, *(str(by_part[part]) for part in PARTS), mean)))
    head = _head("item", "submissions that fail", *PARTS, "mean points")
    ordered = (row for _, row in sorted(rows, key=lambda pair: pair[0]))
    return _table(head, ordered) if rows else "<p>No item was graded.</p>"


def _causes_table(results: Sequence[Result]) -> str:
    found = Counter((cause, item.name) for result in results for item in result.items for cause in item.causes)
    causes: Counter[str] = Counter()
    for (cause, _), times in found.items():
        causes[cause] += times
    rows = []
    for cause, times in causes.most_common():
        where = ", ".join(f"{item} {n}" for (c, item), n in found.most_common() if c == cause)
        rows.append(_row(shown(cause), _bar(times / max(causes.values()), f"{times}"), shown(where)))
    return _table(_head("cause", "times", "items"), rows, "fit causes") if rows else "<p>None was recognised.</p>"


def _conventions_table(results: Sequence[Result]) -> str:
    rows = []
    for name in _item_names(results):
        items = [item for result in results for item in result.items if item.name == name and item.convention]
        used = Counter((item.convention, item.accepted) for item in items).most_common()
        for (convention, accepted), times in used:
            verdict = "" if accepted else " <span class='bad'>✗ not accepted</span>"
            rows.append(_row(shown(name), shown(convention) + verdict, f"{times}"))
    head = _head("item", "convention recognised", "times")
    return _table(head, rows, "fit") if rows else "<p>None was recognised.</p>"


def _flags(results: Sequence[Result], links: Mapping[str, str]) -> str:
    found = []
    for result in results:
        name = _link(result.submission, links)
        if result.error:
            found.append(f"<li>{name}: could not be graded: {shown(result.error)}</li>")
        if not result.finished:
            found.append(f"<li>{name}: not finished, {_count(len(result.items), 'item')} graded</li>")
        found += [
            f"<li>⚑ {name}, {shown(item.name)}: {shown(flag)}</li>" for item in result.items for flag in item.flags
        ]
    return f"<ul>{''.join(found)}</ul>" if found else "<p>Nothing.</p>"


def _submissions_table(results: Sequence[Result], links: Mapping[str, str]) -> str:
    names = _item_names(results)
    rows = []
    for result in results:
        items = {item.name: item for item in result.items}
        name = f"<div class='name'>{_link(result.submission, links)}</div>"
        cells = [f"<th scope='row' data-value='{shown(result.submission)}'>{name}</th>"]
        cells.append(
            f"<td class='number' data-value='{result.points:.6g}'><strong>{points(result.points)}</strong></td>"
        )
        for item in map(items.get, names):
            value, mark = (item.points, _mark(item, of="")) if item else (-1, "<span class='quiet'>—</span>")
            flag = " ⚑" if item and item.flags else ""
            cells.append(f"<td class='number' data-value='{value:.6g}'>{mark}{flag}</td>")
        state = "error" if result.error else "done" if result.finished else "not done"
        rows.append(f"<tr>{''.join(cells)}<td class='number'>{state}</td></tr>")
    head = "<th scope='col' data-first='ascending'>submission</th>" + _head("points", *names, "state")
    key = "<p class='quiet'>✓ full points, ◐ some, ✗ none, — not graded, ⚑ something for you to look at</p>"
    return key + _table(head, rows, "sorted names")


def _item_names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(item.name for result in results for item in result.items))


def _link(name: str, links: Mapping[str, str]) -> str:
    if name not in links:
        return shown(name)
    return f"<a href='./{quote(links[name], errors='surrogateescape')}'>{shown(name)}</a>"


# -- pieces ------------------------------------------------------------------------------------------------------------


def _mark(of_what: ItemResult | Part, words: bool = False, of: str = " of ") -> str:
    """Points with a sign, and a colour that says the same again."""
    if of_what.passed:
        colour, sign, word = "good", "✓", "passed"
    elif of_what.points > 0:
        colour, sign, word = "some", "◐", "partly right"
    else:
        colour, sign, word = "bad", "✗", "failed"
    text = points(of_what.points) + (of + points(of_what.possible) if of else "")
    return f"<span class='{colour}'>{sign} {f'{word}, ' if words else ''}{text}</span>"


def _bar(share: float, number: str) -> str:
    return f"<div class='bar'><span><i style='width:{100 * share:.1f}%'></i></span><span>{number}</span></div>"


def _box(kind: str, title: str, text: str) -> str:
    return f"<div class='{kind}'><p><strong>{title}</strong> {shown(text)}</p></div>"


def _head(*names: str) -> str:
    return "".join(f"<th scope='col'>{shown(name)}</th>" for name in names)


def _row(name: str, *cells: str) -> str:
    return f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(head: str, rows: Iterable[str], kind: str = "") -> str:
    """A table in a box that scrolls by itself where the page is narrow."""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='scroll'><table class='{kind}'>{body}</table></div>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{shown(line)}</li>' for line in lines)}</ul>"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _page(title: str, body: Iterable[str], script: str = "") -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    if script:
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{shown(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main>"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )
