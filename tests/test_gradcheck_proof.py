"""Small runs of the two proofs of the gradient checker; and that they would notice what they look for."""

import json
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_bench import BENCH, load, start

from fastbp.layers.activations import SigmoidOp


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


def run(script: str, *arguments) -> tuple[int, str]:
    process = start(script, *arguments)
    output, errors = process.communicate()
    assert "Traceback" not in errors, errors
    return process.returncode, output


# -- no false alarm ----------------------------------------------------------------------------------------------------


def test_right_gradients_pass(tmp_path):
    status, output = run("gradcheck_soundness.py", "--cases", 500, "--output", tmp_path / "x.json")
    result = load(tmp_path / "x.json")
    assert (status, result["failures"]) == (0, []), output
    counts = sum(map(Counter, result["subjects"].values()), Counter())
    assert counts["cases"] == 500 and counts["mismatch"] == 0
    assert counts["elements"] == counts["ok"] + counts["kink"] + counts["noise"] > 5_000
    assert counts["kink"] > 20  # the hard ones are among them
    assert {"Conv2d, training", "Conv2d, evaluation", "HingeLoss", "cs231n layernorm_backward"} < set(
        result["subjects"]
    )
    assert "0 of 500 cases gave a false alarm" in output


def test_a_mismatch_is_reported_with_its_number(monkeypatch):
    import gradcheck_soundness

    monkeypatch.setattr(SigmoidOp, "backward", lambda op: [lambda: np.copyto(op.dx, op.dout * op.y)])
    totals, failures = gradcheck_soundness.run_cases(0, 0, 2 * len(gradcheck_soundness.SUBJECTS))
    assert failures and all(name.startswith("Sigmoid") for name, counts in totals.items() if counts["mismatch"])
    number, message = failures[0]
    assert message.startswith("Sigmoid") and "WRONG" in message
    assert gradcheck_soundness.case_of(0, number)[0].startswith("Sigmoid")


def test_processes_and_seeds_give_the_same_cases(tmp_path):
    for jobs in (1, 2):
        run(
            "gradcheck_soundness.py", "--cases", 120, "--seed", 3, "--jobs", jobs, "--output", tmp_path / f"{jobs}.json"
        )
    one, two = (load(tmp_path / f"{jobs}.json") for jobs in (1, 2))
    for result in (one, two):
        for counts in result["subjects"].values():
            del counts["seconds"]
    assert one["subjects"] == two["subjects"]


def test_one_case_alone(tmp_path):
    status, output = run("gradcheck_soundness.py", "--only", 0)
    assert status == 0 and "x = array of shape" in output and "passed" in output


# -- no miss -----------------------------------------------------------------------------------------------------------


def test_mutants_are_caught(tmp_path):
    functions = "relu_backward,dropout_backward,logistic_loss,eecs598 fc,eecs598 svm"
    status, output = run("gradcheck_mutants.py", "--functions", functions, "--output", tmp_path / "x.json")
    mutants = load(tmp_path / "x.json")["mutants"]
    outcomes = Counter(mutant["outcome"] for mutant in mutants)
    assert status == 0 and outcomes["MISSED"] == 0, output
    assert outcomes["wrong"] > 80 and outcomes["shape"] > 10 and outcomes["raises"] > 10
    assert 0 < outcomes["equivalent"] < 15 and "either slope is right" in output


def test_a_blind_checker_misses(monkeypatch):
    import gradcheck_mutants

    class Blind:
        passed, tensors = True, ()

    monkeypatch.setattr(gradcheck_mutants, "check", lambda case, seed: Blind)
    for cached in (gradcheck_mutants.cases, gradcheck_mutants.rejected):
        cached.cache_clear()
    name = "cs231n relu_backward"
    verdicts = Counter()
    for mutant in gradcheck_mutants.mutants_of(gradcheck_mutants.TWINS[name]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gradcheck_mutants.verdict(name, mutant, seed=0)
        verdicts[found.outcome] += 1
        # the verification does without the checker: it tells the one that is right all the same from the others
        assert (found.outcome == "equivalent") == (">= 0" in mutant.after)
        assert found.outcome == "equivalent" or "differs" in found.detail or "raises" in found.detail
    assert verdicts["equivalent"] == 1 and verdicts["MISSED"] == verdicts.total() - 1 > 5


def test_the_planted_cause_is_looked_for_in_the_diagnosis(monkeypatch, capsys):
    import gradcheck_mutants

    class Cause:
        def __init__(self, name):
            self.name = name

    class Wrong:
        name, passed, problem, checked, given = "x", False, "", 1, None
        causes = tuple(map(Cause, ("wrong-sign", "overwritten", "mask-missing", "wrong-operator")))

    class Rejected:
        passed, tensors = False, (Wrong,)

    monkeypatch.setattr(gradcheck_mutants, "check", lambda case, seed: Rejected)
    monkeypatch.setattr(gradcheck_mutants, "cases", lambda name, seed: [0])
    name = "eecs598 relu_backward"
    mutants = {mutant.after: mutant for mutant in gradcheck_mutants.mutants_of(gradcheck_mutants.TWINS[name])}
    chosen = (
        "return -(dout * (x > 0))",
        "return dout",
        "return dout + (x > 0)",
        "return dout * (x > 1)",
        "return dout * (x <= 0)",
    )
    pairs = [(name, mutants[after], gradcheck_mutants.verdict(name, mutants[after], seed=0)) for after in chosen]
    assert [gradcheck_mutants.rank(mutant, found) for _, mutant, found in pairs] == [0, 2, 3, None, None]
    gradcheck_mutants.diagnosed("function", [name], pairs)
    assert capsys.readouterr().out.splitlines()[-3].split()[-5:] == ["5", "5", "1", "20%", "2"]


def test_every_kind_has_causes():
    from gradcheck_mutants import CAUSES
    from mutations import KINDS

    assert CAUSES.keys() == set(KINDS)


def test_a_reason_that_does_not_hold_is_a_miss(monkeypatch):
    import gradcheck_mutants

    class Blind:
        passed, tensors = True, ()

    monkeypatch.setattr(gradcheck_mutants, "check", lambda case, seed: Blind)
    monkeypatch.setattr(gradcheck_mutants, "EQUIVALENT", [(".*", "^return dout$", "surely")])
    name = "eecs598 relu_backward"
    (mutant,) = (m for m in gradcheck_mutants.mutants_of(gradcheck_mutants.TWINS[name]) if m.after == "return dout")
    found = gradcheck_mutants.verdict(name, mutant, seed=0)
    assert found.outcome == "MISSED" and "said to be equivalent (surely), but gradient 0 differs" in found.detail


def test_an_endless_mutant_is_caught(monkeypatch):
    import gradcheck_mutants

    monkeypatch.setattr(gradcheck_mutants, "SECONDS", 0.5)
    name = "eecs598 relu_backward"
    mutant = gradcheck_mutants.mutants_of(gradcheck_mutants.TWINS[name])[0]
    endless = replace(mutant, source="def relu_backward(dout, cache):\n    while True:\n        pass")
    found = gradcheck_mutants.verdict(name, endless, seed=0)
    assert found.outcome == "raises" and "no end" in found.detail


SMALL = '''
def backward(dout, cache):
    """Not a statement to change."""
    x, w = cache
    mask = x > 0
    dx = dout.dot(w.T) * mask
    dw = x.T @ dout / 2
    dw[1:] += 3.0 * dout.sum(axis=0, keepdims=True)
    for i in range(2):
        dx[i] = -dx[i]
    return dx, dw
'''


def test_what_is_planted():
    from mutations import KINDS, locals_of, mutants

    names = {}
    exec(SMALL, names)
    rng = np.random.default_rng(0)
    cache = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    found = mutants(SMALL, "backward", locals_of(names["backward"], rng.normal(size=(3, 2)), cache))
    planted = {(mutant.kind, mutant.after) for mutant in found}
    for expected in (
        ("order", "w, x = cache"), ("sign", "mask = -(x > 0)"), ("comparison", "mask = x >= 0"),
        ("mask", "mask = x <= 0"),
        ("constant", "mask = x > 1"), ("operand", "mask = w > 0"), ("transpose", "dx = dout.dot(w) * mask"),
        ("operator", "dx = dout.dot(w.T) / mask"), ("factor", "dx = dout.dot(w.T)"), ("factor", "dx = mask"),
        ("sign", "dw = -(x.T @ dout / 2)"), ("operator", "dw = x.T * dout / 2"), ("constant", "dw = x.T @ dout / 3"),
        ("factor", "dw = x.T @ dout"), ("factor", "dw = 1 / 2"), ("operand", "dw = mask.T @ dout / 2"),
        ("accumulation", "dw[1:] -= 3.0 * dout.sum(axis=0, keepdims=True)"),
        ("accumulation", "dw[1:] = 3.0 * dout.sum(axis=0, keepdims=True)"), ("accumulation", "pass"),
        ("slice", "dw[:] += 3.0 * dout.sum(axis=0, keepdims=True)"),
        ("slice", "dw[1:-1] += 3.0 * dout.sum(axis=0, keepdims=True)"),
        ("slice", "dw[1 + 1:] += 3.0 * dout.sum(axis=0, keepdims=True)"), ("axis", "dw[1:] += 3.0 * dout.sum(axis=0)"),
        ("axis", "dw[1:] += 3.0 * dout.sum(axis=1, keepdims=True)"),
        ("axis", "dw[1:] += 3.0 * dout.sum(keepdims=True)"),
        ("reduction", "dw[1:] += 3.0 * dout.mean(axis=0, keepdims=True)"), ("reduction", "dw[1:] += 3.0 * dout"),
        ("range", "for i in range(2 - 1):"), ("range", "for i in range(1, 2):"), ("sign", "dx[i] = dx[i]"),
        ("sign", "return (-dx, dw)"), ("order", "return (dw, dx)"), ("operand", "return (dx, w)"),
    ):  # fmt: skip
        assert expected in planted, expected
    assert {mutant.kind for mutant in found} < set(KINDS)
    sources = [mutant.source for mutant in found]
    assert len(set(sources)) == len(sources) >= 80
    for source in sources:
        compile(source, "mutant", "exec")


def test_only_the_gradient_part_of_a_loss_is_changed():
    import gradcheck_mutants

    twin = gradcheck_mutants.TWINS["eecs598 logistic_loss"]
    found = gradcheck_mutants.mutants_of(twin)
    assert found and all(mutant.before.startswith(("dx = ", "return")) for mutant in found)
    assert all("loss = np.logaddexp(0, -t * x).mean()" in mutant.source for mutant in found)


def test_every_function_has_mutants_enough():
    import gradcheck_mutants

    counts = {name: len(gradcheck_mutants.mutants_of(twin)) for name, twin in gradcheck_mutants.TWINS.items()}
    assert min(counts.values()) >= 10 and sum(counts.values()) > 1400, json.dumps(counts)
