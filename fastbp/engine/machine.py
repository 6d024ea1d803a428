"""The sizes by which work is cut. How they were found stands in bench/NOTES.md."""

from dataclasses import dataclass, fields

from ..arguments import number, whole

DIVISORS = "part_work", "per_share", "per_weight", "piece_work", "range_work", "block_rows", "block_weights"


@dataclass(frozen=True)
class Machine:
    """The sizes that decide how much is computed at once: set `network.machine` to change them.

    The defaults serve all processors, since how a sum is cut is part of the result: another Machine gives other last
    bits. The number of threads has no say in it. `work` is counted in multiply–adds; a core makes about 25 million in a
    millisecond.

    - `parts` most parts that a batch, or a large linear layer, is cut into
    - `part_work` least forward work of a part of the batch: 0.1 ms, since a thread that sleeps needs 0.04 ms to come
    - `part_sums` most numbers in all parts' shares of the gradients: 16 MB that are written and read again
    - `per_share` least work of a part for each number of its share of the gradients
    - `per_weight` the same for each weight of a large convolution whose gradient is cut by filters
    - `large` weights that fill the second cache: a layer with more of them is cut so that each part reads only its own
    - `piece_work` least work of a part of a large linear layer
    - `read` reading a weight from memory takes as long as so many multiply–adds
    - `few` least weights for each number of a part's share of dx, where dx is a sum of shares
    - `range_work` least work in a range of the gradients
    - `update_work` updating a parameter takes as long as so many multiply–adds
    - `blocks` most blocks of rows that a layer's weight gradient is cut into; each block reads the whole input again
    - `block_rows`, `block_weights` more blocks are made where each still has so many rows for each sample, and so many
      weights
    - `run` least numbers that lie side by side in a part's range of channels
    - `tile_rows`, `tile_columns` blocks begin at multiples of the largest tile of a matrix product

    ValueError or TypeError for a size that is no number, or negative.

    >>> Machine(parts=2).parts
    2
    """

    parts: int = 8
    part_work: float = 4_000_000
    part_sums: float = 4_000_000
    per_share: float = 128
    per_weight: float = 96
    large: float = 65_536
    piece_work: float = 1_000_000
    read: float = 16
    few: float = 8
    range_work: float = 3_500_000
    update_work: float = 64
    blocks: int = 4
    block_rows: float = 8
    block_weights: float = 65_536
    run: int = 128
    tile_rows: int = 8
    tile_columns: int = 48

    def __post_init__(self):
        for field in fields(self):
            what, value = f"Machine: {field.name}", getattr(self, field.name)
            if field.type is int:
                value = whole(what, value)
            else:
                value = number(what, value, above=0) if field.name in DIVISORS else number(what, value, least=0)
            object.__setattr__(self, field.name, value)  # a plain number, for files


USUAL = Machine()
