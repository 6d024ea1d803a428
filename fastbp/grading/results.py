"""What grading found, in points and feedback: parts of items of submissions, as text, JSON and for Gradescope."""

from dataclasses import asdict, dataclass, field

from ..arguments import instance

PARTS = ("present", "forward", "backward")


@dataclass
class Part:
    """One part of an item: `present`, `forward` or `backward`. `lines` is feedback for the student."""

    name: str
    points: float
    possible: float
    lines: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.points >= self.possible


@dataclass
class ItemResult:
    """One item of one submission.

    `convention` is the one recognised, `causes` are the names of the likely mistakes, `flags` what an instructor should
    look at (finite differences inside backward). `correct` and `consistent` say whether each gradient is that of the
    true function and of the submission's own: None where it could not be told.
    """

    name: str
    parts: list[Part]
    visibility: str = "visible"
    convention: str = ""
    accepted: bool = True
    causes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    correct: dict[str, bool | None] = field(default_factory=dict)
    consistent: dict[str, bool | None] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def points(self) -> float:
        return sum(part.points for part in self.parts)

    @property
    def possible(self) -> float:
        return sum(part.possible for part in self.parts)

    @property
    def passed(self) -> bool:
        return all(part.passed for part in self.parts)


@dataclass
class Result:
    """One submission.

    `error` says why it could not be graded further, `notes` what of the isolation the system lacks; `finished` is False
    in what is written while items are still to come.
    """

    submission: str
    assignment: str
    seed: int
    possible: float
    items: list[ItemResult] = field(default_factory=list)
    error: str = ""
    notes: list[str] = field(default_factory=list)
    printed: str = ""
    seconds: float = 0.0
    finished: bool = False

    @property
    def points(self) -> float:
        return sum(item.points for item in self.items)

    def to_dict(self) -> dict:
        """Everything, of kinds that `json.dumps` takes."""
        return {"points": round(self.points, 5)} | asdict(self)

    @classmethod
    def from_dict(cls, entry: dict) -> "Result":
        """The result that `to_dict` wrote; ValueError for a dictionary that it can't have written."""
        instance("Result.from_dict: entry", entry, dict)
        try:
            parts = [[Part(**part) for part in item["parts"]] for item in entry["items"]]
            items = [ItemResult(**{**item, "parts": of}) for item, of in zip(entry["items"], parts, strict=True)]
            return cls(**{name: value for name, value in entry.items() if name != "points"} | {"items": items})
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"Result.from_dict: entry is not what to_dict writes: {reason}") from None

    def __str__(self) -> str:
        score = f"{points(self.points)} of {points(self.possible)} points"
        lines = [f"{self.submission}: {score} ({self.assignment}, seed {self.seed})"]
        if self.error:
            lines += ["", *self.error.splitlines()]
        for item in self.items:
            shown = "" if item.visibility == "visible" else f" ({item.visibility.replace('_', ' ')})"
            lines += ["", f"{item.name}: {points(item.points)} of {points(item.possible)}{shown}"]
            for p in item.parts:
                verdict = "ok   " if p.passed else "WRONG"
                lines.append(f"  {verdict} {p.name:<8} {points(p.points):>5} of {points(p.possible)}")
            lines += [f"    {line}" for part in item.parts for said in part.lines for line in said.splitlines()]
            lines += [f"    NOTICE: {flag}" for flag in item.flags]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)


def points(value: float) -> str:
    """Points without needless digits: 2.5, 10.

    >>> points(10.0), points(3.3333)
    ('10', '3.33')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


def gradescope(result: Result) -> dict:
    """The contents of Gradescope's results.json: one test an item, and the submission's seed and times beside them."""
    tests = []
    instance("gradescope: result", result, Result)
    for number, item in enumerate(result.items, 1):
        lines = [f"{p.name}: {points(p.points)} of {points(p.possible)}" for p in item.parts]
        lines += [line for part in item.parts for line in part.lines]
        test = {
            "name": item.name,
            "number": str(number),
            "score": round(item.points, 5),
            "max_score": round(item.possible, 5),
            "status": "passed" if item.passed else "failed",
            "output": "\n".join(lines),
            "output_format": "text",
            "visibility": item.visibility,
            "tags": item.causes,
            "extra_data": {"convention": item.convention, "flags": item.flags},
        }
        tests.append(test)
    return {
        "score": round(result.points, 5),
        "execution_time": round(result.seconds, 3),
        "output_format": "text",
        "output": result.error or f"{result.assignment}, seed {result.seed}",
        "tests": tests,
        "extra_data": {"seed": result.seed, "finished": result.finished, "notes": result.notes},
    }
