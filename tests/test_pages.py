"""The grader's HTML pages: whole, well formed, escaped, and readable in a real browser on a phone and on a desk."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from fastbp.grading.pages import class_page, shown, submission_page
from fastbp.grading.results import ItemResult, Part, Result

CANARY = "canary.invalid"  # what hostile text would load
SCRIPT = f"<script src='http://{CANARY}/a.js'></script><script>document.title = 'taken'</script>"
STYLE = "<style>body { display: none }</style></title></main>"
IMAGE = f'"><img src="http://{CANARY}/b.png" onerror="document.title = 1">{STYLE}'
NAMES = [
    SCRIPT,
    IMAGE,
    "turned\u202eyp.olleh",
    "half\ud800 a\x00b",
    "x" * 200,
    "Ωmega ✓ 山田太郎",
    "a b#c?d%e&amp;'q\"",
    "ends\\",
]
POINTS = dict.fromkeys(("fc", "relu", "batchnorm", "dropout", "conv", "max_pool", "logistic", "svm", "softmax"), 10)
CONVENTIONS = {
    "dropout": ["p is the probability to keep, training divides by p (inverted)",
                "p is the probability to drop, training divides by 1 − p (inverted)"],
    "conv": ["cross-correlation: the filter is not flipped", "convolution: the filter is flipped"],
    "logistic": ["labels −1 and +1, mean over the batch", "labels 0 and 1, mean over the batch"],
}  # fmt: skip
CAUSES = [
    "wrong sign",
    "a constant factor",
    "not multiplied by dout",
    "not summed over the batch",
    "transposed",
    "mask missing",
]
NOTES = ["the network could not be closed: this kernel has no namespaces for ordinary users"]


def item(rng, name: str) -> ItemResult:
    """A made-up item: most are right."""
    shares = [1.0, rng.choice([1.0, 1.0, 1.0, 0.75, 0.0]), rng.choice([1.0, 1.0, 1.0, 0.5, 0.0])]
    if rng.random() < 0.05:
        shares = [0.0, 0.0, 0.0]
    weights = dict(zip(("present", "forward", "backward"), (0.1, 0.4, 0.5), strict=True))
    parts = [
        Part(n, POINTS[name] * w * share, POINTS[name] * w)
        for (n, w), share in zip(weights.items(), shares, strict=True)
    ]
    present, forward, backward = parts
    conventions = CONVENTIONS.get(name, [f"{name} as usual"])
    out = ItemResult(name, parts, convention=conventions[-1 if rng.random() < 0.2 else 0])
    if not present.passed:
        present.lines.append(f"{name}_forward(x, w, b) is missing; there is a {name.title()}Forward")
        out.convention = ""
        return out
    if not forward.passed:
        x = np.array2string(rng.normal(size=(2, 6)).round(3), separator=", ").replace("\n", "")
        error = "IndexError: index 3 is out of bounds\n  line 40: out[n] = x[n + 1] @ w"
        forward.lines += [
            f"training: the output is wrong at {rng.integers(1, 9)} of 12 elements",
            f"evaluation: {name}_forward raised an error: {error}",
            f"smallest failing input: {name}_forward(x=np.array({x}), w=np.array([[0.5]]), b=np.array([0.0]))",
            "  got      [[0.5, 0.25]]",
            "  expected [[1.0, 0.5]]",
        ]
    if not backward.passed:
        cause = str(rng.choice(CAUSES))
        out.causes.append(cause)
        out.correct = {"x": False, "w": True, "b": None}
        out.consistent = {"x": False, "w": True, "b": None}
        arguments = "x=np.array([[0.5, -1.0]]), w=np.array([[1.0], [2.0]]), b=np.array([0.0])"
        backward.lines += [
            f"the gradient of x: {cause}. Look at the line of {name}_backward that computes dx",
            f"smallest failing input: {name}_forward({arguments})",
            "  the gradient of x at (0, 1) is -0.731059, it should be 0.731059",
        ]
    return out


def klass(count: int = 30) -> list[Result]:
    """A class with all that can occur: hostile names and feedback, errors, what is unfinished, hidden or flagged."""
    rng = np.random.default_rng(3)
    out = []
    for k in range(count):
        name = NAMES[k] if k < len(NAMES) else f"student_{k:02}_layers"
        result = Result(
            name, "eecs598-hw1", 0, 110.0, [item(rng, n) for n in POINTS], seconds=7.25 + k, finished=True, notes=NOTES
        )
        out.append(result)
    first = out[0].items
    first[0].parts[2].lines += [SCRIPT, IMAGE, "smallest failing input: " + SCRIPT, "  " + IMAGE, "word" * 1000]
    first[0].parts[2].lines += [f"line {k} of many" for k in range(9)]
    first[0].parts[2].points, first[0].causes = 0.0, [SCRIPT, "cause & <b>"]
    first[0].correct, first[0].convention = {IMAGE: None}, IMAGE
    first[1].flags.append("finite differences inside backward: relu_forward ran 24 times in one call")
    first[2].flags.append(SCRIPT)
    first[3].visibility, first[4].accepted = "after_due_date", False
    first[6].convention, first[6].accepted = "labels −1 and +1, summed over the batch", False
    out[0].printed, out[0].notes = SCRIPT + "\n\x1b[31mred" * 3, [*NOTES, IMAGE]
    out[9].items, out[9].finished = out[9].items[:4], False
    out[10].items, out[10].error = [], "your file could not be imported: SyntaxError: invalid syntax\n  line 3: def f(:"
    out[11].error, out[11].possible, out[11].items = f"the grader failed: {SCRIPT}", 0.0, []
    return out


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return klass()


@pytest.fixture(scope="module")
def links(results) -> dict[str, str]:
    return {r.submission: f"submission {k}#.html" for k, r in enumerate(results) if k != 5}


@pytest.fixture(scope="module")
def pages(results, links) -> list[str]:
    """The class's page, then each submission's."""
    return [class_page(results, links), *map(submission_page, results)]


# -- as text -----------------------------------------------------------------------------------------------------------


VOID = {"meta", "link", "br", "hr", "img", "input"}
OWN = {"html", "head", "meta", "title", "style", "body", "main", "section", "div", "span", "p", "h1", "h2", "h3", "ul",
       "li", "a", "i", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "svg",
       "rect", "text", "line", "script"}  # fmt: skip


class Reader(HTMLParser):
    """Checks that what is opened is closed, in order, and keeps the links, the texts and the headings."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.links, self.texts, self.headings, self.cells, self.tags = [], [], [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        assert tag in OWN, tag
        assert len(named) == len(attributes)
        assert not [n for n in named if n.startswith("on") or n in ("src", "srcset", "srcdoc", "action")], attributes
        self.tags.append((tag, named))
        if "href" in named:
            assert tag == "a"
            self.links.append(named["href"])
        if tag == "th":
            assert named["scope"] in ("col", "row")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside in ("h1", "h2", "h3"):
            self.headings.append((inside, data))
        if inside not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def spaced(text: str) -> str:
    return " ".join(html.unescape(shown(text)).split())


def test_pages_are_well_formed_and_load_nothing(pages, results, links):
    first, *others = map(Reader, pages)
    assert sorted(first.links) == sorted(
        "./" + file.replace(" ", "%20").replace("#", "%23") for file in _linked(results, links)
    )
    for page, result in zip(others, results, strict=True):
        assert page.links == [f"#item-{k}" for k in range(1, len(result.items) + 1)]
        assert [named["id"] for tag, named in page.tags if tag == "section"] == [link[1:] for link in page.links]
    for page in pages:
        assert page.startswith("<!DOCTYPE html>")
        assert "@import" not in page and "url(" not in page
        page.encode()  # no lone surrogates


def _linked(results, links) -> list[str]:
    """A file for each mention of a submission that is linked."""
    times = {r.submission: 1 + bool(r.error) + (not r.finished) + sum(len(i.flags) for i in r.items) for r in results}
    return [file for name, file in links.items() for _ in range(times[name])]


def test_the_reader_sees_what_is_wrong(pages):
    """Planted: an unclosed tag, a tag and a source that came from a submission."""
    hostile = [(html.escape(text), text) for text in (SCRIPT, IMAGE)]
    for old, new in (*hostile, ("</section>", ""), ("<td>", "<td onclick='1'>"), ("scope='row'", "")):
        assert old in pages[1]
        with pytest.raises((AssertionError, KeyError)):
            Reader(pages[1].replace(old, new, 1))


def test_a_submissions_page_says_everything(pages, results):
    for page, result in zip(pages[1:], results, strict=True):
        text = Reader(page).text
        said = [
            result.submission,
            result.assignment,
            f"seed {result.seed}",
            result.error,
            result.printed,
            *result.notes,
        ]
        for i in result.items:
            said += [i.name, i.convention, *i.flags, "; ".join(i.causes), *i.correct, *(p.name for p in i.parts)]
            said += [line.removeprefix("smallest failing input: ") for p in i.parts for line in p.lines]
        for what in said:
            assert spaced(what) in text
        assert f"{result.points:.2f}".rstrip("0").rstrip(".") + " of" in text
        assert ("Not finished" in text) == (not result.finished)
        assert ("Could not be graded" in text) == bool(result.error)
        assert text.count("For the instructor") == sum(len(i.flags) for i in result.items)
    assert "after due date" in Reader(pages[1]).text
    assert "✗ not accepted" in Reader(pages[1]).text


def test_points_of_parts_have_a_sign_beside_their_colour():
    parts = [Part("present", 1, 1), Part("forward", 2.5, 4), Part("backward", 0, 5)]
    text = Reader(submission_page(Result("a", "b", 0, 10.0, [ItemResult("fc", parts)], finished=True))).text
    assert "fc ✓ 1/1 ◐ 2.5/4 ✗ 0/5 ◐ 3.5/10" in text
    assert "◐ partly right, 3.5 of 10" in text


def test_the_class_in_figures():
    def graded(name, forward, causes=(), convention="usual", accepted=True):
        parts = [Part("present", 1, 1), Part("forward", forward, 4), Part("backward", 5, 5)]
        fc = ItemResult("fc", parts, convention=convention, accepted=accepted, causes=list(causes))
        return Result(name, "homework", 0, 10.0, [fc], finished=True)

    results = [graded("ann", 4), graded("bob", 0, ["wrong sign"]), graded("cy", 2, ["wrong sign"], "rare", False)]
    text = Reader(class_page(results, {})).text
    assert "3 submissions, mean 8 of 10 points" in text
    assert "median 8, lowest 6, highest 10" in text
    assert "fc 2 of 3 0 2 0 8 of 10" in text  # failed, by part, mean
    assert "wrong sign 2 fc 2" in text
    assert "fc usual 2 fc rare ✗ not accepted 1" in text
    assert "ann 10 ✓ 10 done bob 6 ◐ 6 done cy 8 ◐ 8 done" in text


def test_items_that_fail_most_come_first(results):
    text = Reader(class_page(results, {})).text
    table = text[text.index("submissions that fail") : text.index("Likely causes")]
    shares = [int(a) / int(b) for a, b in re.findall(rf"(?:{'|'.join(POINTS)}) (\d+) of (\d+)", table)]
    assert len(shares) == len(POINTS) and len(set(shares)) > 2
    assert shares == sorted(shares, reverse=True)


def test_histogram_counts_every_submission(results):
    page = class_page(results, {})
    label = re.search("aria-label='Number of submissions. (.*?)'", page)[1]
    counts = [int(n) for n in re.findall(r"points: (\d+)", label)]
    assert sum(counts) == len(results)
    assert re.findall(r"<text [^>]*>(\d+)</text>", page)[: len(counts)] == [str(n) for n in counts]
    full = Result("a", "b", 0, 10.0, [ItemResult("fc", [Part("present", 10, 10)])], finished=True)
    assert "9 to 10 points: 1'" in class_page([full], {})


def test_a_class_needs_results_but_not_points():
    with pytest.raises(ValueError, match="no results"):
        class_page([], {})
    Reader(class_page([Result("a", "b", 0, 0.0, error="the grader failed")], {}))


def test_the_policy_names_the_script_by_its_hash(pages):
    script = re.search(r"<script>(.*?)</script>", pages[0], re.DOTALL)[1]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'\"" in pages[0]
    assert all("default-src 'none'; style-src 'unsafe-inline'\"" in page for page in pages[1:])


def test_a_file_cannot_lead_elsewhere(results):
    for file in ("//canary.invalid/x", "javascript:alert(1)", "x' onclick='y"):
        (link,) = Reader(class_page([Result("a", "b", 0, 0.0, finished=True)], {"a": file})).links
        assert link.startswith("./") and not set(link) & set(":' ")


# -- in a browser ------------------------------------------------------------------------------------------------------


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the pages are not looked at in a browser"
)

MEASURE = """
const visits = JSON.parse(document.getElementById("visits").textContent), measured = [];
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const wide = [root.scrollWidth];
  const rows = () => [...page.querySelectorAll("table.sorted tbody tr")];
  const names = () => rows().map((row) => [row.cells[0].textContent, row.cells[1].textContent]);
  const orders = [names()];
  for (const button of [...page.querySelectorAll("table.sorted button")].slice(0, 2)) {
    button.click(); orders.push(names()); button.click(); orders.push(names());
  }
  for (const details of page.querySelectorAll("details")) details.open = true;
  wide.push(root.scrollWidth);
  const blocks = [...page.querySelectorAll("h1, h2, h3, p, li, pre, .card, .scroll, svg")];
  const beyond = (e) => e.getBoundingClientRect().right > view.innerWidth + 1;
  const out = blocks.filter(beyond).map((e) => e.outerHTML.slice(0, 200));
  const size = view.getComputedStyle(page.querySelector("p")).fontSize;
  const background = view.getComputedStyle(page.body).backgroundColor;
  return { inner: view.innerWidth, wide, out, title: page.title, orders, size, background };
}
visits.forEach(([page, width], k) => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 800px`;
  frame.addEventListener("load", () => {
    measured[k] = measure(frame);
    document.getElementById("said").textContent = JSON.stringify(measured);
  });
  frame.srcdoc = page;
  document.body.append(frame);
});
"""


def visit(folder, visits: list[tuple[str, int]], *options: str) -> tuple[list[dict], str, str]:
    """What a browser measures on each page in a frame of the width given, what its console
    says, and the log of its requests.

    Frames, since chromium's windows have a least width; `srcdoc`, since a page's own policy stays in force in it.
    """
    inside = json.dumps(visits).replace("<", "\\u003c")
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        "<!DOCTYPE html><meta charset=utf-8><pre id=said></pre>"
        f"<script type=application/json id=visits>{inside}</script><script>{MEASURE}</script>"
    )
    log = folder / "requests.json"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-sync", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
         "--virtual-time-budget=10000", "--dump-dom", *options, wrapper.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = json.loads(html.unescape(re.search(r"<pre id=\"said\">(.*?)</pre>", done.stdout, re.DOTALL)[1]))
    assert len(said) == len(visits)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return said, console, log.read_text()


WIDTHS = (360, 1200)
LOOKED_AT = (0, 1, 2, 5)  # the class, the longest feedback, hostile names


@pytest.fixture(scope="module")
def visited(pages, tmp_path_factory) -> tuple[dict, str, str]:
    """(page, width) -> what was measured; the console; the requests."""
    keys = [(number, width) for number in LOOKED_AT for width in WIDTHS]
    said, console, log = visit(tmp_path_factory.mktemp("browser"), [(pages[number], width) for number, width in keys])
    return dict(zip(keys, said, strict=True)), console, log


@browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("number", LOOKED_AT)
def test_pages_fit_in_a_browser(visited, width, number):
    measured = visited[0][number, width]
    assert measured["inner"] == width
    assert max(measured["wide"]) <= width
    assert measured["out"] == []
    assert float(measured["size"].removesuffix("px")) >= 14


@browser
def test_the_browser_runs_nothing_of_theirs_and_asks_for_nothing(visited, results):
    measured, console, log = visited
    assert console == ""
    assert "wrapper.html" in log and CANARY not in log
    assert measured[1, 360]["title"].startswith(SCRIPT)
    assert measured[2, 360]["title"].startswith(IMAGE)


@browser
def test_the_browser_sees_what_is_wrong(pages, tmp_path):
    """Planted: no escaping and no policy; a box that is too wide; a script that the policy does not know."""
    bare = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html.unescape(pages[1]))
    wide = pages[0].replace("overflow-x: auto", "")
    other = pages[0].replace("const order =", "let order =")
    (_, measured, unsorted), console, log = visit(tmp_path, [(bare, 360), (wide, 360), (other, 360)])
    assert CANARY in log
    assert max(measured["wide"]) > 360 or measured["out"]
    assert "Content Security Policy" in console
    assert len(unsorted["orders"]) == 1


@browser
def test_the_class_table_is_sorted_by_a_click(visited, results):
    given, rising, falling, most, least = visited[0][0, 1200]["orders"]
    assert [name for name, _ in given] == [html.unescape(shown(r.submission)) for r in results]
    assert rising == falling[::-1] and sorted(rising) == sorted(given) and rising != given
    scores = [float(score) for _, score in most]
    assert scores == sorted(scores, reverse=True)
    assert [float(score) for _, score in least] == scores[::-1]


@browser
def test_pages_are_dark_where_that_is_preferred(visited, pages, tmp_path):
    (dark,), _, _ = visit(tmp_path, [(pages[1], 360)], "--blink-settings=preferredColorScheme=0")
    brightness = [max(map(int, re.findall(r"\d+", m["background"]))) for m in (visited[0][1, 360], dark)]
    assert brightness[0] > 200 and brightness[1] < 60
