"""Grading of submissions: student code runs in a child process, references and comparisons stay in the parent."""

from .assignment import Assignment, AssignmentError, Case, Convention, Disagrees, Item, load_assignment
from .batch import find_submissions, grade_all
from .grader import grade
from .results import ItemResult, Part, Result, gradescope

__all__ = [
    "Assignment", "AssignmentError", "Case", "Convention", "Disagrees", "Item", "ItemResult", "Part", "Result",
    "find_submissions", "grade", "grade_all", "gradescope", "load_assignment",
]  # fmt: skip
