"""What a layer costs, in floating-point operations; fastbp.costs says how each is counted."""

import math
from dataclasses import asdict, dataclass

from .arguments import instance, whole

UNBOUNDED = math.inf  # FLOPs may be more than any array has elements


@dataclass(frozen=True)
class Cost:
    """FLOPs of one layer for one batch: of the output, and of the gradients dx, dw (all weights) and db.

    `multiply_adds` are those of the forward pass in products with weights; dx and dw take as many each.
    """

    forward: int
    dx: int
    dw: int = 0
    db: int = 0
    multiply_adds: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, whole(f"Cost: {name}", value, 0, UNBOUNDED))

    def __rmul__(self, count: int) -> "Cost":
        """The same `count` times: Cost of an element · elements."""
        count = whole("Cost: count", count, 0, UNBOUNDED)
        return Cost(*(count * number for number in asdict(self).values()))

    def __add__(self, other: "Cost") -> "Cost":
        """Of two layers together."""
        instance("Cost: the other", other, Cost)
        return Cost(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))
