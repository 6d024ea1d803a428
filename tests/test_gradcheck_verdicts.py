"""Each element's verdict, the checks beside the numbers, the modes, the smallest case and the report's forms."""

import html.parser
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import check_gradients
from fastbp.gradcheck.numeric import function_noise, ladder, slopes
from fastbp.testing import assert_gradients

RNG = np.random.default_rng(0)


def elementwise(f, derivative):
    """A pair of functions from a scalar function and its derivative."""
    return (lambda x: (f(x), x)), (lambda dout, x: dout * derivative(x))


def affine_forward(x, w, b):
    return x @ w + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


def affine_inputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)


# -- the numeric derivative and its error ------------------------------------------------------------------------------

SMOOTH = {  # f, f', places
    "sin": (np.sin, np.cos, (-3.0, 0.1, 2.0)),
    "exp": (np.exp, np.exp, (-20.0, 0.0, 5.0)),
    "log": (np.log, lambda x: 1 / x, (1e-3, 0.5, 1e3)),
    "cube": (lambda x: x**3, lambda x: 3 * x**2, (-2.0, 1e-4, 0.0, 1e3)),
    "steep": (lambda x: np.tanh(1e4 * x), lambda x: 1e4 / np.cosh(1e4 * x) ** 2, (0.0, 1e-5, 3e-4)),
    "far from 0": (lambda x: (x - 1e6) ** 2, lambda x: 2 * (x - 1e6), (1e6 + 1, 1e6 + 0.5)),
    "root": (np.sqrt, lambda x: 0.5 / np.sqrt(x), (1e-6, 1.0, 1e6)),
}


@pytest.mark.parametrize(("f", "derivative", "places"), SMOOTH.values(), ids=SMOOTH)
def test_the_estimate_bounds_the_error_at_every_step(f, derivative, places):
    """At each step of the ladder that is fine enough for the function, not only at the one that is chosen."""
    dout = np.array([[1.25]])
    for x in places:
        centre = np.array([f(np.float64(x))])

        def move(t, x=x):
            moved = np.float64(x) + t
            with np.errstate(all="ignore"):
                return np.array([f(moved)]), moved - x

        noise = function_noise(lambda t: move(t)[0], centre, abs(x))
        for h in ladder(max(1.0, abs(x))):
            found = slopes(move, centre, noise, dout, h)
            if found is not None and found.error[0] <= 0.03 * abs(found.value[0]):
                off = abs(found.value[0] - 1.25 * derivative(x))
                assert off <= 1.5 * found.error[0] + 1e-15 * abs(derivative(x)), (x, h, found)


@given(st.floats(-8, 8), st.sampled_from([0.0, 1e-5, -1e-5, 1e-3, 0.5, 2.0]))
@settings(max_examples=200, deadline=None)
def test_a_mistake_of_any_size_above_the_tolerance_is_found(x, wrong_by):
    x = np.array([x, 0.5])
    pair = elementwise(np.sin, lambda x: np.cos(x) * (1 + wrong_by))
    report = check_gradients(pair, x, smallest=False)
    wrong = np.abs(np.cos(x) * wrong_by) > 3e-6 * np.abs(np.cos(x)) + 1e-11
    assert report.passed == (not wrong.any()), str(report)


def test_noise_of_the_function_is_measured_not_guessed():
    """Values rounded to float32 inside: noise a hundred million times that of float64."""
    pair = elementwise(lambda x: np.sin(x).astype(np.float32).astype(np.float64), np.cos)
    report = check_gradients(pair, RNG.normal(size=5))
    assert report.passed, str(report)
    shifted = elementwise(lambda x: np.sin(x).astype(np.float32).astype(np.float64), lambda x: np.cos(x) + 0.5)
    assert not check_gradients(shifted, RNG.normal(size=5), smallest=False).passed


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_every_verdict_is_given_and_counted():
    x = np.array([2.0, 0.0, 1.0, -1.0, 3.0])

    def forward(x):
        with np.errstate(all="ignore"):
            return np.array(
                [x[0] ** 2, np.maximum(x[1], 0), 1e9 + 1e-9 * x[2] * abs(x[2]), np.log(x[3]), np.sin(x[4])]
            ), x

    def backward(dout, x):
        return dout * np.array([2 * x[0], x[1] > 0, 2e-9, 1.0, np.cos(x[4]) + 0.1])

    report = check_gradients((forward, backward), x, smallest=False)
    # the fourth output is NaN, and with it every sum over the outputs: so one problem an output
    assert not report.passed and report.counts == {"not finite": 5}
    for k, verdict in enumerate(["ok", "kink", "below noise", "not finite", "mismatch"]):
        one = (
            (lambda v, k=k: (lambda y: (y[0][k : k + 1], y[1]))(forward(np.where(np.arange(5) == k, v, x)))),
            (lambda d, c, k=k: backward(np.full(5, d[0]), c)[k : k + 1]),
        )
        report = check_gradients(one, x[k : k + 1], smallest=False)
        assert report.counts == {verdict: 1}, f"{k}: {report}"
        assert report.passed == (verdict in ("ok", "kink", "below noise"))


def test_kinks_that_meet_at_one_point():
    """relu(t) − relu(−t) = t has slope 1 on both sides, and yet its parts' gradients at 0, 0 and 0, are right."""

    def forward(x, w):
        h = x @ w
        return np.maximum(h, 0) @ [1.0, -1.0], (x, w, h)

    def backward(dout, cache):
        x, w, h = cache
        dh = dout[:, None] * [1.0, -1.0] * (h > 0)
        return dh @ w.T, x.T @ dh

    x, w = np.zeros((1, 2)), np.array([[1.0, -1.0], [2.0, 0.5]])
    report = check_gradients((forward, backward), x, w)
    assert report.passed and report.tensors[0].counts == {"kink": 2}
    wrong = (forward, lambda dout, cache: tuple(g + 5 for g in backward(dout, cache)))
    assert not check_gradients(wrong, x, w, smallest=False).passed


def test_ties_in_overlapping_windows():
    """An element that wins one window and loses another has a slope of its own for each."""
    x = np.zeros((1, 1, 3, 3))
    report = check_gradients(fastbp.MaxPool2d(2, stride=1), x)
    assert report.passed and report.counts["kink"] == 9


def test_a_gradient_that_is_not_finite_fails():
    pair = elementwise(np.sin, lambda x: np.where(x > 0, np.cos(x), np.nan))
    report = check_gradients(pair, np.array([1.0, -1.0]), smallest=False)
    assert report.counts == {"ok": 1, "not finite": 1} and not report.passed
    assert math.isnan(report.tensors[0].error) and "nan" in str(report)


def test_the_complex_step_sees_below_the_noise():
    """1e8 + …: differences can't tell, the complex step can, where the function takes complex numbers."""

    def pair(factor):
        return (lambda x: (1e5 + np.exp(-4 * x), x)), (lambda dout, x: -4 * factor * dout * np.exp(-4 * x))

    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert check_gradients(pair(1.0), x).counts == {"ok": 4}
    wrong = check_gradients(pair(np.array([1, 1, 1, 1.1])), x, smallest=False)
    assert wrong.counts == {"ok": 3, "mismatch": 1}

    def real(x):
        return 1e5 + np.exp(-4 * x.astype(float)), x  # a cast: complex numbers would lose a part

    assert check_gradients((real, pair(1.0)[1]), x).counts == {"ok": 3, "below noise": 1}


def test_the_complex_step_is_not_trusted_where_the_function_is_not_analytic():
    """|z| of a complex number: its imaginary step says slope 0, and zeros would pass."""
    pair = elementwise(lambda x: 1e5 + np.abs(x), np.zeros_like)
    assert not check_gradients(pair, np.array([1.0, -2.0, 3.0]), smallest=False).passed


@pytest.mark.parametrize("scale", [1e-10, 1e-8, 1e-3, 1e8])
def test_elements_that_bend_on_their_own_scale(scale):
    x = np.array([1.0, -2.0, 3.0]) * scale
    assert check_gradients(elementwise(lambda x: 1 / x, lambda x: -1 / x**2), x).passed
    assert check_gradients(elementwise(lambda x: np.log(np.abs(x)), lambda x: 1 / x), x).passed
    if scale < 1:  # further out the gradients are below the noise
        assert not check_gradients(elementwise(lambda x: 1 / x, lambda x: -1.001 / x**2), x, smallest=False).passed


def test_one_of_many_in_a_tie_may_win_or_lose():
    """Seven equal elements in a window: which wins is a choice of one in seven."""
    x = np.zeros((1, 1, 3, 3))
    for winner in range(9):

        def backward(dout, x, winner=winner):
            return dout * (np.arange(9).reshape(x.shape) == winner)

        pair = (lambda x: (x.max(axis=(2, 3), keepdims=True), x)), backward
        assert check_gradients(pair, x).counts == {"kink": 9}


def test_a_column_that_is_almost_constant():
    """Batch norm bends on the scale of √eps beside elements of 1e3: steps too wide look settled and are not."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=(3, 2)) * [1e-9, 1.0] + [1e3, 0.0]
        assert check_gradients(fastbp.BatchNorm1d(2), x, smallest=False).passed


def test_where_nothing_was_decided_it_is_said():
    pair = elementwise(lambda x: 1e-20 * np.abs(x) ** 1.5, lambda x: 3e-20 * np.sign(x) * np.sqrt(np.abs(x)))
    report = check_gradients(pair, np.array([1.0, 2.0]))
    assert report.counts == {"below noise": 2} and "nothing was decided for x" in str(report)


# -- the checks beside the numbers -------------------------------------------------------------------------------------


def broken(name, report):
    """The message of the property that doesn't hold, which must be the only one that fails the report."""
    failing = [p for p in report.properties if not p.passed]
    assert [p.name for p in failing] == [name], str(report)
    assert failing[0].warning == report.passed and failing[0].message in str(report)
    return failing[0].message


def test_backward_that_writes_to_dout_or_its_cache():
    def relu_backward(dout, x):
        dout[x <= 0] = 0
        return dout.copy()

    relu_forward = elementwise(lambda x: np.maximum(x, 0), None)[0]
    x = RNG.normal(size=(3, 4))
    report = check_gradients((relu_forward, relu_backward), x, smallest=False)
    assert "writes to dout" in broken("inputs, dout and cache unmodified by backward", report)

    def scale_backward(dout, cache):
        cache["count"] += 0.0
        cache["x"] *= 1.0
        cache["seen"] = cache["seen"] + 1
        return dout * 2

    def scale_forward(x):
        return 2 * x, {"x": x.copy(), "count": np.zeros(1), "seen": np.zeros(2)}

    report = check_gradients((scale_forward, scale_backward), x, smallest=False)
    assert "writes to the cache" in broken("inputs, dout and cache unmodified by backward", report)


def test_backward_that_adds_up_from_call_to_call():
    total = np.zeros(3)

    def backward(dout, x):
        total[...] += dout
        return total.copy()

    report = check_gradients((lambda x: (x.copy(), x), backward), np.ones(3), smallest=False)
    assert not report.passed and not next(p for p in report.properties if p.name == "backward twice agrees").passed


def test_a_gradient_that_does_not_use_dout():
    report = check_gradients((lambda x: (x**2, x), lambda dout, x: 2 * x), np.arange(1.0, 4), smallest=False)
    failing = {p.name: p.message for p in report.properties if not p.passed}
    assert set(failing) == {"zero dout gives zero gradients", "linear in dout"}
    assert "not multiplied by dout" in failing["zero dout gives zero gradients"]


def test_a_forward_pass_that_differs_from_call_to_call_or_writes_to_its_input():
    rng = np.random.default_rng(0)
    report = check_gradients(
        (lambda x: (x * (rng.random(x.shape) < 0.5), x), lambda d, x: d), np.ones((3, 4)), smallest=False
    )
    assert "another result" in broken("forward deterministic", report) and "can't be differentiated" in str(report)

    def doubling(x):
        x *= 2
        return x.copy(), None

    report = check_gradients((doubling, lambda d, _: 2 * d), np.ones(3), smallest=False)
    assert not report.passed and "writes to its inputs" in str(report)


def test_an_output_that_is_an_input_is_a_note():
    report = check_gradients((lambda x: (x, None), lambda d, _: d.copy()), RNG.normal(size=3))
    assert "shares memory" in broken("output is a new array", report) and report.passed and "note:" in str(report)


def test_gradients_of_another_dtype_are_a_note():
    report = check_gradients(elementwise(lambda x: 2 * x, lambda x: np.float64(2)), np.array([1.0, 2]))
    assert report.passed
    halved = (lambda x: (2 * x, x)), (lambda d, x: (2 * d).astype(np.float32))
    report = check_gradients(halved, np.array([1.0, 2]), tolerance=1e-5)
    assert any("float32" in p.message for p in report.properties)


def test_masks_from_numpys_global_generator_are_held_and_the_users_generator_is_not_touched():
    def dropout_forward(x, rate):
        mask = (np.random.random(x.shape) >= rate) / (1 - rate)  # noqa: NPY002 -- as students write it
        return x * mask, mask

    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert check_gradients((dropout_forward, lambda d, mask: d * mask), RNG.normal(size=(4, 5)), 0.4).passed
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_options_are_the_functions_own_in_every_call():
    def batchnorm_forward(x, options):
        options["calls"] += 1
        options["mean"] += x.mean(axis=0)
        assert options["calls"] == 1
        return x * options["scale"], options["scale"]

    options = {"calls": 0, "mean": np.zeros(3), "scale": 2.0}
    assert check_gradients((batchnorm_forward, lambda d, scale: d * scale), RNG.normal(size=(4, 3)), options).passed
    assert options["calls"] == 0 and not options["mean"].any()


# -- what can be checked -----------------------------------------------------------------------------------------------


def logistic_loss(x, y):
    return np.logaddexp(0, -x * y).mean(), -y / (1 + np.exp(x * y)) / len(x)


def test_a_loss_function():
    x, y = RNG.normal(size=6), np.array([1, -1, 1, 1, -1, -1])
    report = assert_gradients(logistic_loss, x, y)
    assert [t.name for t in report.tensors] == ["x"] and report.counts == {"ok": 6}
    with pytest.raises(fastbp.GradientError, match="x"):
        assert_gradients(lambda x, y: (logistic_loss(x, y)[0], 2 * logistic_loss(x, y)[1]), x, y)
    with pytest.raises(ValueError, match=r"must give \(loss, dx\)"):
        check_gradients(lambda x, y: 1.0, x, y)
    with pytest.raises(ValueError, match="a number and its gradient"):
        check_gradients(lambda x, y: (x, x), x, y)


def test_a_forward_that_gives_no_cache_is_a_clear_error():
    with pytest.raises(ValueError, match=r"must give \(out, cache\)"):
        check_gradients((lambda x: x, lambda d, c: d), np.ones(2))
    with pytest.raises(TypeError, match="inputs are real"):
        check_gradients((lambda x: (x, x), lambda d, c: d), np.ones(2) * 1j)


WRONG_OPTIONS = [({"mode": "fast"}, "mode is"), ({"samples": 0}, "samples"), ({"tolerance": 0}, "tolerance")]


@pytest.mark.parametrize(("option", "message"), WRONG_OPTIONS)
def test_wrong_options_are_clear_errors(option, message):
    with pytest.raises(ValueError, match=message):
        check_gradients(fastbp.ReLU(), np.ones((2, 2)), **option)


def test_an_input_without_a_gradient():
    """Float targets: None for them."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(2, 3, 4))

    def forward(x, target):
        return (x - target) ** 2, (x, target)

    report = check_gradients((forward, lambda dout, cache: (2 * dout * (cache[0] - cache[1]), None)), x, target)
    assert report.passed and [t.checked for t in report.tensors] == [12, 0] and "no gradient given" in str(report)
    with pytest.raises(ValueError, match=r"1 gradients for 2 floating-point inputs \(x, target\); .* return None"):
        check_gradients((forward, lambda dout, cache: 2 * dout * (cache[0] - cache[1])), x, target)


# -- modes -------------------------------------------------------------------------------------------------------------


def big_network():
    return fastbp.Sequential(fastbp.Linear(60, 40), fastbp.Tanh(), fastbp.Linear(40, 30), seed=0)


def test_sampled_mode_gives_each_tensor_its_share_and_never_less_than_sixteen():
    report = check_gradients(big_network(), RNG.normal(size=(2, 60)), mode="sampled")
    checked = {t.name.split()[0]: t.checked for t in report.tensors}
    assert report.passed and checked["0.bias"] == checked["x"] == 16
    assert checked["0.weight"] == pytest.approx(512 * 2400 / 3790, abs=1) and checked["2.weight"] > 150
    assert "324 of 2400" in str(report)


def test_directional_mode_screens_and_goes_full_on_failure():
    x = RNG.normal(size=(2, 60))
    report = check_gradients(big_network(), x, mode="directional")
    assert (
        report.passed and all(t.directions and not t.checked for t in report.tensors) and "8 directions" in str(report)
    )

    class Slip(fastbp.Tanh):
        def backward(self, dout, need_dx=True, out=None):
            dx = np.array(super().backward(dout))
            dx[0, 7] *= 1.001  # one of 80
            return dx

    network = fastbp.Sequential(fastbp.Linear(60, 40), Slip(), fastbp.Linear(40, 30), seed=0)
    report = check_gradients(network, x, mode="directional")
    wrong = {t.name.split()[0]: t for t in report.tensors if not t.passed}
    assert set(wrong) == {"x", "0.weight", "0.bias"} and wrong["0.bias"].counts == {"ok": 39, "mismatch": 1}
    assert wrong["0.bias"].index == (7,)


# -- the smallest case -------------------------------------------------------------------------------------------------


@pytest.mark.portable
def test_the_smallest_case_of_a_pair_is_small_readable_and_repeats(capsys):
    def half_backward(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        return dx, dw / max(len(dout) - 1, 1), db  # wrong from three samples on

    report = check_gradients((affine_forward, half_backward), *affine_inputs())
    case = report.smallest
    assert case.arguments["x"].shape == (3, 1) and case.arguments["w"].shape == (1, 1)
    assert sorted(case.arguments["x"].ravel()) == [0, 0, 1]
    assert "smallest failing case: x of shape (3, 1), w of shape (1, 1), b of shape (1,)" in str(report)
    exec(case.snippet, {"affine_forward": affine_forward, "half_backward": half_backward})
    assert "WRONG" in capsys.readouterr().out


def test_the_smallest_case_of_a_layer_is_a_smaller_layer():
    class Skewed(fastbp.Linear):
        def backward(self, dout, need_dx=True, out=None):
            dx = super().backward(dout)
            self.weight.grad[-1] *= 2
            return dx

    report = check_gradients(Skewed(5, 4), RNG.normal(size=(3, 5)))
    assert "x of shape (1, 1), weight of shape (1, 1)" in str(report.smallest)
    assert "layer = Skewed(1, 1).astype(np.float64)" in report.smallest.snippet
    own = report.smallest.snippet.replace("layer = Skewed", "layer = fastbp.Linear")
    exec(own)  # the right layer passes it


def test_the_smallest_case_of_a_loss():
    class Doubled(fastbp.SoftmaxCrossEntropy):
        def backward(self, out=None):
            return 2 * super().backward(out)

    report = check_gradients(Doubled(), RNG.normal(size=(4, 3)), np.array([0, 2, 1, 1]))
    assert report.smallest.arguments["scores"].shape[0] == 1


def test_no_smallest_case_is_said_by_none():
    count = []

    def backward(dout, cache):
        count.append(1)
        return dout * (2 if dout.shape == (5, 7) else 1)

    report = check_gradients((lambda x: (x.copy(), x), backward), RNG.normal(size=(5, 7)))
    assert not report.passed and report.smallest is None


# -- the report's forms ------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def wrong_report():
    def backward(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        dw[1] = np.nan
        return dx * 2, dw, db

    return check_gradients((affine_forward, backward), *affine_inputs())


def test_html_has_what_the_text_has(wrong_report):
    tags = Tags()
    tags.feed(wrong_report._repr_html_())
    assert not tags.open
    for words in ("WRONG", "12 mismatch", "2 not finite", "smallest failing case", "2 of 3 gradients WRONG"):
        assert words in tags.text and words in str(wrong_report)
    odd = check_gradients((lambda x: (x**2, x), lambda dout, x: dout), np.ones(2), smallest=False)
    object.__setattr__(odd, "subject", "<script>")
    assert "<script>" not in odd._repr_html_()


def test_json_says_everything_in_plain_kinds(wrong_report):
    entry = json.loads(json.dumps(wrong_report.to_dict(), allow_nan=False))
    assert entry["passed"] is False and entry["counts"] == {"ok": 6, "mismatch": 12, "not finite": 2}
    assert [t["name"] for t in entry["tensors"]] == ["x", "w", "b"] and entry["tensors"][1]["error"] == "nan"
    assert entry["smallest"]["snippet"].startswith("import fastbp")


def test_the_figure_shows_where_the_error_sits(wrong_report, tmp_path):
    figure = wrong_report.figure()
    panels = figure.axes
    assert [a.get_title().split(":")[0] for a in panels] == ["x (4, 3)", "w (3, 2)", "b (2,)"]
    picture = np.asarray(panels[1].images[0].get_array())
    assert picture.shape == (3, 2, 3) and not picture[1].any()  # the row of NaN is black
    assert (picture[0] == picture[2]).all() and picture[0].any()
    figure.savefig(tmp_path / "f.png")
    four = check_gradients(fastbp.Conv2d(2, 3, 2), RNG.normal(size=(2, 2, 3, 3)))
    assert np.asarray(four.figure().axes[0].images[0].get_array()).shape == (2 * 4 - 1, 2 * 4 - 1, 3)
    check_gradients(fastbp.Linear(3, 2), np.zeros((0, 3))).figure().savefig(tmp_path / "empty.png")
