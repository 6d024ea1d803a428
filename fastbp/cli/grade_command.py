"""`fastbp grade`."""

from ..interrupts import STATUS
from ..terminal import Terminal, tell, watched
from .streams import Failure


def grade(options) -> int:
    """Grade the submissions, and print or write the report.

    The exit status is 1 where something failed that is not a submission's doing.
    """
    from ..grading import AssignmentError, find_submissions, grade_all, load_assignment
    from ..grading.batch import Job, left_out
    from ..grading.reports import Report
    from ..grading.results import gradescope

    try:
        assignment = load_assignment(options.assignment)
        found = find_submissions(options.submissions, options.one)
        if options.format == "gradescope" and len(found) > 1:
            raise ValueError(f"--format gradescope is for one submission, got {len(found)} (a folder as one: --one)")
        report = Report(options.format, options.output, assignment.name, list(found))
    except (AssignmentError, FileNotFoundError, FileExistsError, ValueError) as error:
        raise Failure(str(error), 2) from None
    for path in [] if options.one else left_out(options.submissions):
        tell(f"fastbp: not graded, no Python file: {path}")
    with _progress(len(found)) as bar:

        def done(result) -> None:
            report.add(result)
            bar.set_postfix_str(f"{result.submission} {result.points:g}", refresh=False)
            bar.update()

        try:
            if options.format == "gradescope":  # its file is rewritten after every item
                ((name, path),) = found.items()
                record = None if report.into else options.output
                done(Job(name, path, options.assignment, options.seed, options.timeout, record, gradescope)())
            else:
                grade_all(
                    options.submissions, options.assignment, seed=options.seed, jobs=options.jobs,
                    seconds=options.timeout, folder=report.folder, one=options.one, done=done,
                )  # fmt: skip
        except KeyboardInterrupt:
            kept = f"; what is graded is in {report.place}" if report.place is not None else ""
            graded = f"{len(report.results)} of {len(found)} submissions"
            raise Failure(f"interrupted after {graded}{kept}", STATUS) from None
    if text := report.finish():
        print(text)
    for path, why in report.unwritten.items():
        tell(f"fastbp: {path} could not be written: {why}")
    faults = [flag for result in report.results.values() for flag in _faults(result)]
    for fault in faults:
        tell(f"fastbp: {fault}")
    return 1 if faults or report.unwritten else 0


def _faults(result) -> list[str]:
    """What went wrong that is not the submission's doing."""
    flags = [result.error, *(flag for item in result.items for flag in item.flags)]
    return [f"{result.submission}: {flag}" for flag in flags if flag.startswith("the grader failed")]


def _progress(total: int):
    """A bar where somebody watches several submissions being graded."""
    from tqdm import tqdm

    shown = total > 1 and watched()
    return tqdm(total=total, unit="submission", dynamic_ncols=True, leave=False, disable=not shown, file=Terminal())
