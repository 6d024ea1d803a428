"""What a grading leaves behind, in the form asked for: text, JSON, Gradescope's results.json, or HTML pages."""

import json
from collections.abc import Sequence
from pathlib import Path

from .. import arguments
from ..files import new_folder, written_atomically, written_into
from .results import Result, gradescope, points


class Report:
    """The report on the submissions of these `names`, in one form: "text", "json", "gradescope" or "html".

    `output` is a file for JSON, for Gradescope and for the text of one submission, and a folder otherwise; None means
    standard output for those, and a new folder fastbp-grade-ASSIGNMENT for these. `place` is where it goes, or None;
    `folder` where each submission's record is kept while it is graded. `add` a result as it comes, and `finish` for
    what is to be printed. What is written into, such as a FIFO or /dev/stdout (`into`), gets the text once, at the end.
    FileExistsError if the output is there already.
    """

    def __init__(self, form: str, output: Path | str | None, assignment: str, names: Sequence[str]):
        self.form, self.names, self.assignment = form, list(names), assignment
        self.results: dict[str, Result] = {}
        self.unwritten: dict[Path, str] = {}  # files that could not be written, and why
        in_folder = form == "html" or form == "text" and len(self.names) > 1
        output = None if output is None else Path(arguments.path("Report: output", output))
        self.into = output is not None and not in_folder and written_into(output)
        if not self.into and output is not None and output.exists() and not (in_folder and _is_empty(output)):
            raise FileExistsError(f"{output} exists: choose another name, nothing is overwritten")
        self.place = new_folder(f"fastbp-grade-{assignment}") if in_folder and output is None else output
        self.folder = self.place / "records" if in_folder else None
        if self.folder is not None:
            self.folder.mkdir(parents=True)
        elif self.place is not None and not self.into:
            self.place.parent.mkdir(parents=True, exist_ok=True)

    def add(self, result: Result) -> None:
        """Keep a submission's result; what is known of all goes to the output file at once."""
        self.results[result.submission] = result
        if self.place is not None and self.folder is None:
            if not self.into:
                self._write(self.place, self._text())
        elif self.folder is not None:
            self._write(self.place / f"{result.submission}.txt", f"{result}\n")

    def finish(self) -> str:
        """Write what is left to be written; the text to print."""
        if self.form == "html":
            from . import pages

            results = self._ordered()
            links = {result.submission: f"submissions/{result.submission}.html" for result in results}
            (self.place / "submissions").mkdir(exist_ok=True)
            for result in results:
                self._write(self.place / links[result.submission], pages.submission_page(result))
            self._write(self.place / "index.html", pages.class_page(results, links))
            return f"{table(results)}\nwrote {self.place / 'index.html'}"
        if self.folder is not None:
            return f"{table(self._ordered())}\nwrote the feedback to {self.place}"
        if self.place is None:
            return self._text().rstrip()
        if self.into:
            self._write(self.place, self._text())
            return ""
        return f"wrote {self.place}"

    def _ordered(self) -> list[Result]:
        return [self.results[name] for name in self.names if name in self.results]

    def _text(self) -> str:
        results = self._ordered()
        if self.form == "gradescope":
            return json.dumps(gradescope(results[0]), indent=1, ensure_ascii=False) + "\n"
        if self.form == "json":
            entries = [result.to_dict() for result in results]
            whole = {"assignment": self.assignment, "submissions": len(self.names), "results": entries}
            return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
        return "\n\n".join(map(str, results)) + "\n"

    def _write(self, path: Path, text: str) -> None:
        """Write a file; what can't be written is said at the end, since grading goes on."""
        try:
            with written_atomically(path) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            self.unwritten[path] = error.strerror or str(error)
        else:
            self.unwritten.pop(path, None)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def table(results: Sequence[Result]) -> str:
    """A line for each submission: points, and what there is to notice."""
    width = max([len("submission"), *(len(result.submission) for result in results)])
    lines = [f"{'submission':<{width}}  points  lost most on"]
    for result in results:
        lost = sorted((item for item in result.items if not item.passed), key=lambda item: item.points - item.possible)
        words = ", ".join(f"{item.name} ({points(item.points - item.possible)})" for item in lost[:3])
        words = result.error.splitlines()[0][:80] if result.error else words
        flags = "; ".join(flag for item in result.items for flag in item.flags)
        words += f"  NOTICE: {flags}" if flags else ""
        lines.append(f"{result.submission:<{width}}  {points(result.points):>6}  {words}".rstrip())
    if len(results) > 1:
        total = sum(result.points for result in results) / len(results)
        lines.append(f"{'mean':<{width}}  {points(total):>6}  of {points(max(result.possible for result in results))}")
    return "\n".join(lines)
