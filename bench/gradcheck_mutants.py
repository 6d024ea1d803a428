"""No miss: the gradient checker on backward passes with a planted fault, thousands of them, one at a time.

    python bench/gradcheck_mutants.py [--functions conv,batchnorm] [--jobs 2] [--seed 0] [--output mutants.json]
    [--list]

The faults are those of mutations.py, planted in every backward function of tests/twins and in the gradient part of
every loss there. A mutant is checked at drawn inputs until it is caught:

    wrong        an element differs from finite differences, or is not finite
    shape        a gradient of the wrong shape or dtype
    property     something else that must hold does not: backward twice the same, inputs and cache unchanged, …
    raises       an exception, or no end within some seconds
    equivalent   the gradient is still right: the reason is in EQUIVALENT, and is verified on many more inputs
    MISSED       none of these

Two more tables say how many of the "wrong" have the planted cause named. All of them count, none is left out. Of a
mutant with several wrong gradients the one with the best answer counts. "named first": the first cause of the diagnosis
is one that describes the change, so that a student who reads it looks at the right place: those in CAUSES for this kind
of mutant, and what `planted` adds where the change can be read in other words that are as true (`return dxhat` for `dx
= dxhat / std` is both another name and a missing factor). "in the first three" likewise; "explained": there is a cause
at all, right or not.

"shape" and "raises" are counted apart, in a table of their own: they are named where the report's own words say it, the
shape (and dtype) that was given, and the exception with a message, which check_gradients lets through.

How to read it. The exit status is 1 if a mutant is missed, or if the checker rejects an unmutated function, or if a
reason in EQUIVALENT does not hold or is not needed any more. `--list` prints every mutant with its verdict.
"""

import argparse
import ast
import re
import signal
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import get_context

import measuring
import numpy as np
from gradcheck_cases import ALL_TWINS, Case, Draw, Twin, check
from mutations import KINDS, Mutant, locals_of, mutants
from tqdm import tqdm

from fastbp.terminal import watched

TAME, WILD = 16, 24  # inputs that a mutant must survive
VERIFIED = 300  # inputs at which a mutant called equivalent must give the function's own gradient
SECONDS = 20  # after which a mutant counts as endless
OUTCOMES = ("wrong", "shape", "property", "raises", "equivalent", "MISSED")

# -- Mutants whose gradient is right all the same: patterns of the function's name and of the changed statement, and
# why.
KINK = "differs at the kink only, where either slope is right"
EQUIVALENT = [
    (".*relu_backward|eecs598 svm_loss", r">= 0", KINK),
    (
        ".*",
        r"\blen\((dout|dx|centred|dnormal|margin|t|y|log_probs|x_hat)\)",
        "the length of another array with as many rows",
    ),
    (".*", r"= winner\.shape|zeros_like\((exps|probs)\)", "the shape of another array of the same shape"),
    (
        ".*",
        r"^((C, F|_, F), HH, WW = w|C, N, H, W = x|(F, N|C, N), OH, OW = dout)\.shape",
        "exchanges names that are not used",
    ),
    ("eecs598 (relu|dropout)_backward", r"\bcache\b", "the cache is this one array"),
    (".*", r"-np\.zeros_like", "−0 is 0"),
    ("eecs598 conv_backward", r"^dx, dw = .*ones_like\(w\)", "every element is assigned afterwards"),
    ("cs231n affine_backward", r"^N, D = \(-len\(x\), len\(w\)\)", "reshape finds out a negative length by itself"),
    (
        "cs231n batchnorm_backward",
        r"^centred = -\(x_hat \* std\)",
        "dvar has centred as a factor and is multiplied by it: −1 · −1",
    ),
]

# -- What the diagnosis may call a fault of each kind: only what describes the change, not what else follows from it.
SIGNS = "direct-term-sign mean-term-sign variance-term-sign"
FACTORS = "direct-term-factor mean-term-factor variance-term-factor"
MISSING = "direct-term-missing mean-term-missing variance-term-missing"
UNFILLED = "zero one-hot-missing correct-class-missing"
POWERS = "std-missing std-power variance-not-root"
PLACES = "partly-wrong loop-range loop-stops shifted exchanged index-fixed wrong-window stride-ignored zero empty"
PLACES += " padding-crop padding-not-cropped cropped-too-far"
CAUSES = {
    # + for −; a mask and a minimum of −x
    "sign": f"wrong-sign wrong-sign-inside wrong-operator mask-inverted pool-minimum {SIGNS}",
    "operator": f"wrong-operator wrong-sign-inside dout-added number-added divided factor-by-element constant-factor "
    f"scale-inverted wrong-count {SIGNS} {FACTORS} {POWERS}",
    "term": f"term-missing mean-and-variance-terms-missing direct-and-mean-terms-missing one-hot-missing "
    f"correct-class-missing {MISSING}",
    # wrong-tensor, since sum(dout) is another tensor's gradient
    "factor": f"factor-missing not-times-dout mask-missing pool-spread scale-missing gamma-missing label-missing "
    f"not-normalised constant-factor factor-by-element wrong-count wrong-tensor {FACTORS} {POWERS}",
    "constant": f"wrong-constant wrong-comparison constant-factor mask-threshold mask-value number-added wrong-count "
    f"one-hot-missing {FACTORS} {POWERS}",
    "axis": "wrong-axis summed-too-far not-summed axes-swapped",
    "slice": f"{PLACES} kernel-flipped reversed summed-too-far",
    "range": PLACES,
    "comparison": "wrong-comparison mask-inverted mask-threshold mask-missing",  # where it holds always
    "mask": "mask-inverted wrong-comparison",
    "operand": "wrong-operand wrong-tensor wrong-order wrong-count mask-from-dout mask-other dout-twice gamma-missing "
    "not-a-gradient zero",
    "transpose": "transposed axes-swapped wrong-product wrong-reshape",
    "reshape": "not-reshaped wrong-reshape",
    "reduction": f"wrong-function not-summed constant-factor wrong-count pool-minimum {FACTORS}",
    "accumulation": f"overwritten wrong-sign wrong-sign-inside wrong-operator constant-factor {UNFILLED} {MISSING}",
    "function": "wrong-function factor-missing term-missing",  # exp(−log(1 + z)) without the log is exp(−z)
    "order": "wrong-order wrong-tensor wrong-operand axes-swapped exchanged",
    "branch": "mask-missing scale-missing mean-and-variance-terms-missing statistics-constant",
}
# what is no gradient, or dout itself, returned in a gradient's place
RETURNED = "not-a-gradient not-times-dout factor-missing not-summed"
# where the change is in the statement that computes this, or replaces it, what is said of this term describes it
IN_TERM = {
    **dict.fromkeys(("mean", "dmean", "dbeta"), "mean"),
    **dict.fromkeys(("projection", "centred", "dinv_std", "dstd", "dvar", "dgamma"), "variance"),
}

TWINS = {twin.name: twin for twin in ALL_TWINS}


@dataclass
class Verdict:
    outcome: str
    case: int = -1  # the input that told
    detail: str = ""
    causes: tuple[tuple[str, ...], ...] = ()  # of each wrong gradient, the diagnosis, best first


def case_of(twin: Twin, number: int, seed: int, wild: bool, source: str | None = None) -> Case:
    """A case of the twin, or of a mutant of it: its source replaces the function's."""
    rng = np.random.default_rng([seed, number, wild])
    return twin.draw(Draw(rng, wild), namespace(twin.name, source) if source else None)


@lru_cache(maxsize=4)
def namespace(name: str, source: str) -> dict:
    """The functions of the twin's file, with the mutated one among them."""
    names = {"__name__": "mutant"}
    exec(compile(TWINS[name].source, f"{name}.py", "exec"), names)
    exec(compile(source, f"{name}-mutant.py", "exec"), names)
    return names


def verdict(name: str, mutant: Mutant, seed: int) -> Verdict:
    """What the checker says of a mutant."""
    for number in cases(name, seed):
        case = case_of(TWINS[name], number, seed, number >= TAME, mutant.source)
        try:
            with limited(SECONDS):
                report = check(case, seed=number)
        except Exception as error:
            return Verdict("raises", number, f"{type(error).__name__}: {error}")
        if not report.passed:
            wrong = [tensor for tensor in report.tensors if not tensor.passed]
            compared = all(tensor.checked or tensor.given is not None for tensor in wrong)
            if not wrong or not compared:  # then forward is disturbed
                return Verdict("property", number, "; ".join(p.message for p in report.properties if not p.passed))
            problems = [tensor.problem for tensor in wrong if tensor.problem]
            causes = tuple(tuple(cause.name for cause in tensor.causes) for tensor in wrong)
            return Verdict("shape" if problems else "wrong", number, "; ".join(problems), causes)
    reason = next((EQUIVALENT[k][2] for k in matching(name, mutant)), "")
    difference = differs(name, mutant, seed, ties=reason != KINK)
    if reason and not difference:
        return Verdict("equivalent", detail=reason)
    if reason:
        return Verdict("MISSED", detail=f"said to be equivalent ({reason}), but {difference}")
    return Verdict("MISSED", detail=difference or "its gradient seems right: give it a reason")


@cache
def cases(name: str, seed: int) -> list[int]:
    """The numbers of the inputs at which the checker accepts the function itself."""
    return [number for number in range(TAME + WILD) if not rejected(name, number, seed)]


@cache
def rejected(name: str, number: int, seed: int) -> bool:
    return not check(case_of(TWINS[name], number, seed, number >= TAME), seed=number).passed


def matching(name: str, mutant: Mutant) -> list[int]:
    """Which entries of EQUIVALENT speak of this mutant."""

    def speaks(functions: str, text: str) -> bool:
        return bool(re.fullmatch(functions, name) and re.search(text, mutant.after))

    return [k for k, (functions, text, _) in enumerate(EQUIVALENT) if speaks(functions, text)]


def differs(name: str, mutant: Mutant, seed: int, ties: bool) -> str:
    """How the mutant's gradients differ from the function's, beyond rounding, at many inputs; "" if they don't."""
    for number in range(VERIFIED):
        wild = ties and number % 2 == 1
        right = gradients(case_of(TWINS[name], 10_000 + number, seed, wild))
        try:
            given = gradients(case_of(TWINS[name], 10_000 + number, seed, wild, mutant.source))
        except Exception as error:
            return f"raises {type(error).__name__} at input {number}"
        for k, (one, other) in enumerate(zip(given, right, strict=True)):
            least = 1e-12 * np.max(np.abs(other), initial=0)
            close = one.shape == other.shape and np.allclose(one, other, rtol=1e-9, atol=least)
            if not close:
                return f"gradient {k} differs at input {number}"
    return ""


def gradients(case: Case) -> list[np.ndarray]:
    forward, backward = case.thing
    result = forward(*case.tensors.values(), *case.others.values())
    if backward is None:
        return [np.asarray(result[1])]
    given = backward(np.random.default_rng(0).normal(size=result[0].shape), result[1])
    return [np.asarray(gradient) for gradient in (given if isinstance(given, tuple) else (given,))]


def planted(mutant: Mutant) -> set[str]:
    """The causes that describe what was planted."""
    before, after = (Counter(re.findall(r"\w+", text)) for text in (mutant.before, mutant.after))
    causes = set(CAUSES[mutant.kind].split())
    for term in {IN_TERM[name] for name in (mutant.place, *(before - after)) if name in IN_TERM}:
        causes |= {f"{term}-term-{what}" for what in ("wrong", "missing", "sign", "factor")} | set(POWERS.split())
        causes.add("not-normalised" if term == "variance" else "direct-and-mean-terms-missing")
    if mutant.indexing:
        causes |= set(PLACES.split())
    if mutant.kind == "operand":
        ((old, _),), ((new, _),) = (before - after).items(), (after - before).items()
        made_of = ancestors(mutant.source)
        if "dout" in {old, *made_of.get(old, ())} and "dout" not in {new, *made_of.get(new, ())}:
            causes.add("not-times-dout")
        # what makes one of the other is left out, or done twice
        if new in made_of.get(old, ()) or old in made_of.get(new, ()):
            causes |= set(CAUSES["factor"].split()) | set(CAUSES["term"].split())
    if mutant.kind == "operand" and mutant.before.startswith("return"):
        causes |= set(RETURNED.split())
    if mutant.kind == "operand" and not mutant.after.startswith(mutant.place):
        causes |= {*UNFILLED.split(), "overwritten"}  # it is written elsewhere
    if mutant.kind == "operand" and ".shape)" in mutant.before:
        causes.add("not-reshaped")
    return causes


@cache
def ancestors(source: str) -> dict[str, set[str]]:
    """For each name that a function assigns to, all that it is computed from."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            used = {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for inner in ast.walk(target):
                    if isinstance(inner, ast.Name):
                        found.setdefault(inner.id, set()).update(used)
    for _ in found:
        for used in found.values():
            used |= {name for between in used & found.keys() for name in found[between]}
    return found


def rank(mutant: Mutant, found: Verdict) -> int | None:
    """The place of the planted cause in the diagnosis, the best of all wrong gradients'; None if it is not there."""
    right = planted(mutant)
    places = [k for causes in found.causes for k, cause in enumerate(causes) if cause in right]
    return min(places, default=None)


class limited:
    """Raises TimeoutError in the block after so many seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self):
        def stop(*_):
            raise TimeoutError(f"no end after {self.seconds} s")

        self.before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def quiet_verdict(task: tuple[str, Mutant, int]) -> Verdict:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verdict(*task)


def mutants_of(twin: Twin) -> list[Mutant]:
    case = case_of(twin, 0, 0, wild=False)
    forward, backward = case.thing
    arguments = *case.tensors.values(), *case.others.values()
    if backward is None:
        return mutants(twin.source, twin.forward, locals_of(forward, *arguments), after="loss")
    out, kept = forward(*arguments)
    return mutants(twin.source, twin.backward, locals_of(backward, np.ones_like(out), kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    functions = "only those whose names contain one of these, by commas (default: all)"
    parser.add_argument("--functions", default="", help=functions)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print every mutant")
    parser.add_argument("--output", type=measuring.new_file, help="also write all verdicts to this file, JSON")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    names = [name for name in TWINS if any(part in name for part in options.functions.split(","))]
    if not names:
        parser.error(f"--functions: none of {', '.join(TWINS)}")

    tasks = [(name, mutant, options.seed) for name in names for mutant in mutants_of(TWINS[name])]
    verdicts = list(tqdm(results(tasks, options.jobs), total=len(tasks), unit="mutant", disable=not watched()))
    pairs = [(name, mutant, found) for (name, mutant, _), found in zip(tasks, verdicts, strict=True)]
    faults = report(names, pairs, options)
    measuring.write_json(options.output, as_json(pairs, options.seed))
    sys.exit(bool(faults))


def results(tasks, jobs: int):
    if jobs == 1:
        yield from map(quiet_verdict, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(quiet_verdict, tasks, chunksize=4)


def report(names: list[str], pairs: list[tuple[str, Mutant, Verdict]], options) -> list[str]:
    """Prints the tables; what is wrong."""
    if options.list:
        for name, mutant, found in pairs:
            print(f"{found.outcome:<10}  {name}, line {mutant.line}, {mutant.kind}: {mutant}")
        print()
    tally("function", names, [(name, found.outcome) for name, _, found in pairs])
    tally("kind", KINDS, [(mutant.kind, found.outcome) for _, mutant, found in pairs])
    wrong = [(name, mutant, found) for name, mutant, found in pairs if found.outcome == "wrong"]
    diagnosed("function", names, wrong)
    diagnosed("kind", KINDS, [(mutant.kind, mutant, found) for _, mutant, found in wrong])
    table = measuring.Table("outcome:-36", "mutants:8", "named by the report:19")
    for outcome in ("shape", "raises"):
        some = [found for _, _, found in pairs if found.outcome == outcome]
        table.row(outcome, len(some), sum(map(says, some)))
    print()
    faults = []
    for name, mutant, found in pairs:
        if found.outcome == "MISSED":
            detail = found.detail and f": {found.detail}"
            faults.append(f"MISSED: {name}, line {mutant.line}, {mutant.kind}: {mutant}{detail}")
    needed = {k for name, mutant, found in pairs if found.outcome == "equivalent" for k in matching(name, mutant)}
    if not options.functions:
        faults += [f"not needed in EQUIVALENT: {EQUIVALENT[k]}" for k in range(len(EQUIVALENT)) if k not in needed]
    for name in names:
        left_out = [number for number in range(TAME + WILD) if number not in cases(name, options.seed)]
        if left_out:
            faults.append(f"false alarm: {name} itself is rejected at inputs {left_out}, which were left out")
    print("\n".join(["", *faults]) if faults else "")
    reasons = Counter(found.detail for _, _, found in pairs if found.outcome == "equivalent")
    for reason, count in reasons.most_common():
        print(f"{count:4} equivalent: {reason}")
    counts = Counter(found.outcome for _, _, found in pairs)
    caught = sum(counts[outcome] for outcome in OUTCOMES[:-2])
    different = len(pairs) - counts["equivalent"]
    print(f"\n{caught} of {different} mutants that change the gradient are caught, {counts['MISSED']} missed")
    return faults


def tally(title: str, rows, entries: list[tuple[str, str]]) -> None:
    counts = Counter(entries)
    table = measuring.Table(f"{title}:-36", "mutants:8", *(f"{outcome}:{len(outcome) + 2}" for outcome in OUTCOMES))
    for row in rows:
        found = [counts[row, outcome] for outcome in OUTCOMES]
        table.row(row, sum(found), *found)
    total = Counter(outcome for _, outcome in entries)
    table.row("all", len(entries), *(total[outcome] for outcome in OUTCOMES))
    print()


def diagnosed(title: str, rows, entries: list[tuple[str, Mutant, Verdict]]) -> None:
    columns = ("wrong:8", "explained:10", "named first:12", "share:7", "in the first three:19")
    table = measuring.Table(f"{title}:-36", *columns)
    for row in [*rows, "all"]:
        some = [(mutant, found) for key, mutant, found in entries if row in (key, "all")]
        explained = sum(all(found.causes) for _, found in some)
        ranks = [rank(mutant, found) for mutant, found in some]
        share = f"{ranks.count(0) / len(some):.0%}" if some else "-"
        table.row(row, len(some), explained, ranks.count(0), share, sum(k is not None and k < 3 for k in ranks))
    print()


def says(found: Verdict) -> bool:
    """Is a wrong shape given in full, an exception by its name and its message?"""
    pattern = r"(gradient has (shape \(.*\)|dtype \w+)|backward gave None)" if found.outcome == "shape" else r"\w+: .+"
    return all(re.search(pattern, part) for part in found.detail.split("; "))


def as_json(pairs, seed: int) -> dict:
    rows = []
    for name, mutant, found in pairs:
        row = {"function": name} | {k: getattr(mutant, k) for k in ("kind", "line", "before", "after")}
        rows.append(row | {"outcome": found.outcome, "case": found.case, "detail": found.detail})
        if found.causes:
            rows[-1] |= {"causes": found.causes, "rank": rank(mutant, found)}
    return {"seed": seed, "machine": measuring.machine(), "mutants": rows}


if __name__ == "__main__":
    measuring.run(main)
