"""The rate of each family of kernels over a range of shapes, beside what this machine can compute and move, and beside
oneDNN.

    python bench/kernels.py [--families linear,conv,fused,elementwise] [--quick] [--json kernels.json] [--figure
    kernels.png]

How it is measured. Float32, one thread, through the layers' own forward and backward; the same arrays again and again,
so they are in cache where they fit. Forward is timed with `out=`; dW is backward(need_dx=False), with the bias's
gradient; dX is the difference of the whole backward and dW, medians of alternating runs ("–" where noise swallowed it).
PyTorch, if installed, alternates with it in the same process: functional.linear and conv2d, their backward by its own
operators (mm, and convolution_backward with one gradient asked for), which are oneDNN's and MKL's kernels without
autograd's overhead.

How to read it. Linear, convolution and the fused convolution + ReLU + pooling are judged by GFLOP/s: two FLOPs for each
multiply–add of fastbp's cost sheet, as a plain convolution would do them, so a kernel that avoids work (pooled
gradients, Winograd) may pass the peak. FLOP/B is that by the bytes of all inputs and outputs, each once. The other
kernels do little per number and are judged by GB/s, again of inputs and outputs once, beside a loop a[i] = b[i] +
s·c[i] over as many bytes.
The figure is a roofline: no kernel can be above min(peak, intensity × bandwidth of the level its arrays are in).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import measuring
import numpy as np
import sides
from measuring import size_text, time_text

import fastbp

FAMILIES = ("linear", "conv", "fused", "elementwise")
LINEAR = [(784, 100), (3872, 100), (1024, 1024), (256, 10)]  # inputs, outputs
LINEAR_BATCHES = (1, 4, 32, 256)
CONV = [  # channels, filters, kernel, size of the image, padding
    (3, 32, 3, 32, 1), (32, 64, 3, 16, 1), (128, 128, 3, 8, 1), (256, 256, 3, 4, 1),
    (1, 16, 5, 28, 0), (3, 6, 5, 32, 0), (6, 16, 5, 14, 0), (32, 32, 5, 16, 2),
]  # fmt: skip
CONV_BATCHES = (1, 32)
FUSED = [(1, 32, 7, 28, 0), (3, 6, 5, 32, 0), (6, 16, 5, 14, 0), (3, 32, 3, 32, 1)]
IMAGES = [(1, 32, 24, 24), (32, 32, 24, 24), (128, 64, 32, 32)]
VECTORS = (10_000, 1_000_000, 10_000_000)
rng = np.random.default_rng(0)


@dataclass
class Case:
    """Passes of one kernel at one shape: ours and, where there is one, the peer's, with useful FLOPs and bytes of each
    pass.

    A pass named `both` is the whole backward: dX is the difference of it and dW."""

    family: str
    shape: str
    work: dict[str, tuple[float, float]]  # pass: (FLOPs, bytes)
    ours: dict[str, Callable]
    theirs: dict[str, Callable]


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def layer_passes(layer, x: np.ndarray) -> tuple[dict[str, Callable], np.ndarray, np.ndarray]:
    """(passes, y, dout) of a layer"""
    y = layer.forward(x, training=True)
    dout, dx = normal(*y.shape), np.empty_like(x)
    passes = {
        "forward": lambda: layer.forward(x, training=True, out=y),
        "dW": lambda: layer.backward(dout, need_dx=False),
        "both": lambda: layer.backward(dout, out=dx),
    }
    return passes, y, dout


def tensors(*arrays: np.ndarray):
    import torch

    return [torch.from_numpy(array) for array in arrays]


def products(layer, x: np.ndarray, y: np.ndarray) -> dict[str, tuple[float, float]]:
    """All three passes do the same multiply–adds, and touch the same or equally large arrays."""
    flops = 2 * layer.costs(x.shape[1:], len(x)).multiply_adds
    return dict.fromkeys(("forward", "dW", "dX"), (flops, x.nbytes + layer.weight.value.nbytes + y.nbytes))


def linear_cases(quick: bool, torch_too: bool):
    for inputs, outputs in LINEAR[: 1 if quick else None]:
        for batch in LINEAR_BATCHES[: 2 if quick else None]:
            layer, x, theirs = fastbp.Linear(inputs, outputs), normal(batch, inputs), {}
            ours, y, dout = layer_passes(layer, x)
            if torch_too:
                theirs = torch_linear(*tensors(x, layer.weight.value, layer.bias.value, dout))
            work = products(layer, x, y)
            yield Case("linear", f"{inputs}→{outputs}, batch {batch}", work, ours, theirs)


def torch_linear(x, w, b, dout) -> dict[str, Callable]:
    import torch

    return {
        "forward": lambda: torch.nn.functional.linear(x, w, b),
        "dW": lambda: (torch.mm(dout.T, x), dout.sum(0)),
        "dX": lambda: torch.mm(dout, w),
    }


def conv_cases(quick: bool, torch_too: bool):
    for channels, filters, kernel, size, padding in CONV[4:5] if quick else CONV:
        for batch in CONV_BATCHES[: 1 if quick else None]:
            layer, x = fastbp.Conv2d(channels, filters, kernel, padding=padding), normal(batch, channels, size, size)
            ours, y, dout = layer_passes(layer, x)
            theirs = torch_conv(*tensors(x, layer.weight.value, layer.bias.value, dout), padding) if torch_too else {}
            work = products(layer, x, y)
            yield Case("conv", conv_shape(channels, filters, kernel, size, batch), work, ours, theirs)


def torch_conv(x, w, b, dout, padding: int) -> dict[str, Callable]:
    import torch

    def backward(*wanted: bool):
        options = (1, 1), (padding, padding), (1, 1), False, (0, 0), 1
        return torch.ops.aten.convolution_backward(dout, x, w, [len(b)], *options, wanted)

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, w, b, padding=padding),
        "dW": lambda: backward(False, True, True),
        "dX": lambda: backward(True, False, False),
    }


def conv_shape(channels: int, filters: int, kernel: int, size: int, batch: int) -> str:
    return f"{channels}→{filters}, {kernel}×{kernel} at {size}×{size}, batch {batch}"


def fused_cases(quick: bool, torch_too: bool):
    """Convolution, ReLU and 2×2 pooling as a network's engine computes them, whether in one pass or not."""
    for channels, filters, kernel, size, padding in FUSED[: 1 if quick else None]:
        for batch in CONV_BATCHES[: 1 if quick else None]:
            conv, x = fastbp.Conv2d(channels, filters, kernel, padding=padding), normal(batch, channels, size, size)
            network = fastbp.Sequential(conv, fastbp.ReLU(), fastbp.MaxPool2d(2))
            engine = network.engine(x.shape[1:])
            y, theirs = engine.forward(x, training=True), {}
            dout = normal(*y.shape)
            ours = {
                "forward": lambda engine=engine, x=x: engine.forward(x, training=True),
                "dW": lambda engine=engine, dout=dout: engine.backward(dout, need_dx=False),
                "both": lambda engine=engine, dout=dout: engine.backward(dout),
            }
            if torch_too:
                theirs = torch_fused(*tensors(x, conv.weight.value, conv.bias.value), padding)
            work = products(conv, x, y)
            yield Case("fused", conv_shape(channels, filters, kernel, size, batch), work, ours, theirs)


def torch_fused(x, w, b, padding: int) -> dict[str, Callable]:
    """Only forward: its backward is three calls of autograd, which training_step.py times."""
    from torch.nn import functional

    return {"forward": lambda: functional.max_pool2d(functional.relu(functional.conv2d(x, w, b, padding=padding)), 2)}


def elementwise_cases(quick: bool, torch_too: bool):
    for shape in IMAGES[: 1 if quick else None]:
        x, text = normal(*shape), "×".join(map(str, shape))
        for layer in (fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.AvgPool2d(2), fastbp.BatchNorm2d(shape[1])):
            passes, y, dout = layer_passes(layer, x)
            both = x.nbytes + y.nbytes
            # backward reads x, or a mask or an index
            more = x.nbytes if isinstance(layer, fastbp.BatchNorm2d) else y.nbytes
            more = 0 if isinstance(layer, fastbp.AvgPool2d) else more
            ours = {"forward": passes["forward"], "backward": passes["both"]}
            yield Case(type(layer).__name__, text, {"forward": (0, both), "backward": (0, both + more)}, ours, {})
    for batch in (32, 1024)[: 1 if quick else None]:
        loss, scores, labels = fastbp.SoftmaxCrossEntropy(), normal(batch, 10), rng.integers(0, 10, batch)
        loss.forward(scores, labels)
        ours = {"forward": lambda a=loss, b=scores, c=labels: a.forward(b, c), "backward": loss.backward}
        size = scores.nbytes
        yield Case("softmax CE", f"{batch}×10", {"forward": (0, 2 * size), "backward": (0, 2 * size)}, ours, {})
    for count in VECTORS[: 1 if quick else None]:
        values, grads = normal(count), normal(count) * 1e-6
        for optimizer, arrays in ((fastbp.SGD(1e-3, momentum=0.9), 5), (fastbp.Adam(1e-6), 7)):  # read and written
            ours = {"step": lambda optimizer=optimizer, values=values, grads=grads: optimizer.step(values, grads)}
            yield Case(type(optimizer).__name__, f"{count:,}", {"step": (0, arrays * values.nbytes)}, ours, {})


MAKERS = {"linear": linear_cases, "conv": conv_cases, "fused": fused_cases, "elementwise": elementwise_cases}


def times(functions: dict[str, Callable], seconds: float) -> dict[str, float | None]:
    """The median time of each pass; dX from the two that were timed."""
    times = measuring.alternate(functions, seconds)
    medians = {name: measuring.summary(runs)["median"] for name, runs in times.items()}
    for side in ("ours", "theirs"):
        if (side, "both") in medians:
            difference = medians.pop((side, "both")) - medians[side, "dW"]
            medians[side, "dX"] = difference if difference > 0 else None
    return medians


def rows_of(case: Case, seconds: float) -> list[dict]:
    functions = {("ours", name): function for name, function in case.ours.items()}
    functions |= {("theirs", name): function for name, function in case.theirs.items()}
    medians, rows = times(functions, seconds), []
    for name, (flops, size) in case.work.items():
        row = {"family": case.family, "shape": case.shape, "pass": name, "flops": flops, "bytes": size}
        row |= {"seconds": medians["ours", name], "torch_seconds": medians.get(("theirs", name))}
        for key, amount in (("gflops", flops), ("gbytes", size)):
            row[key] = amount / row["seconds"] / 1e9 if amount and row["seconds"] else None
        rows.append(row)
    return rows


def show(table: measuring.Table, row: dict, limits: dict) -> None:
    if row["flops"]:
        rate = f"{row['gflops']:.1f} GF/s" if row["gflops"] else "–"
        share = f"{row['gflops'] / limits['peak']:.0%}" if row["gflops"] else "–"
        intensity = f"{row['flops'] / row['bytes']:.1f}"
    else:
        triad = row["triad"] = measuring.bandwidth(row["bytes"])
        rate, share, intensity = f"{row['gbytes']:.1f} GB/s", f"{row['gbytes'] / triad:.0%}", ""
    theirs, ratio = time_text(row["torch_seconds"]) if row["torch_seconds"] else "", ""
    if row["torch_seconds"] and row["seconds"]:
        ratio = f"{row['torch_seconds'] / row['seconds']:.2f}"
    cells = (row["family"], row["shape"], row["pass"], time_text(row["seconds"]))
    cells += (rate, share, intensity, size_text(row["bytes"]))
    table.row(*cells, theirs, ratio)


def draw(rows: list[dict], limits: dict, machine: dict):
    """The roofline of the kernels with FLOPs, and GB/s over bytes of the others."""
    figure, ((left, right),) = measuring.new_figure(13, 6.4, (1, 2))
    drawn = [row for row in rows if row["gflops"]]
    intensities = np.geomspace(0.2, 400, 200)
    for (name, rate), style in zip(limits["bandwidth"].items(), ("-", "--", ":"), strict=True):
        roof, label = np.minimum(limits["peak"], intensities * rate), f"{name}: {rate:.0f} GB/s"
        left.plot(intensities, roof, style, color="0.35", label=label)
    peak, place = limits["peak"], {"ha": "right", "va": "bottom"}
    left.text(intensities[-1], peak * 1.05, f"peak {peak:.0f} GFLOP/s", fontsize=9, **place)
    markers = {"forward": "o", "dW": "s", "dX": "^"}
    for color, family in enumerate(dict.fromkeys(row["family"] for row in drawn)):
        for name, marker in markers.items():
            some = [row for row in drawn if (row["family"], row["pass"]) == (family, name)]
            x, y = [row["flops"] / row["bytes"] for row in some], [row["gflops"] for row in some]
            left.plot(x, y, marker, color=f"C{color}", alpha=0.75, label=f"{family} {name}", linestyle="")
    left.set(xscale="log", yscale="log", xlabel="FLOP / byte", ylabel="GFLOP/s")
    left.set_title("matrix products and convolutions")
    left.set_ylim(bottom=min([1, *(0.7 * row["gflops"] for row in drawn)]))
    right.plot(*zip(*limits["triad"], strict=True), "-", color="0.35", label="a[i] = b[i] + s·c[i]")
    for level in ("L1", "L2", "L3"):
        right.axvline(machine["caches"][level], color="0.75", linestyle=":")
        style = {"transform": right.get_xaxis_transform(), "color": "0.5", "fontsize": 9}
        right.text(machine["caches"][level], 0.97, f" {level}", **style)
    others = [row for row in rows if not row["flops"]]
    for color, family in enumerate(dict.fromkeys(row["family"] for row in others)):
        for name, marker in {"forward": "o", "backward": "s", "step": "D"}.items():
            some = [row for row in others if (row["family"], row["pass"]) == (family, name)]
            if some:
                x, y = [row["bytes"] for row in some], [row["gbytes"] for row in some]
                right.plot(x, y, marker, color=f"C{color}", alpha=0.75, label=f"{family} {name}", linestyle="")
    right.set(xscale="log", yscale="log", xlabel="bytes of inputs and outputs", ylabel="GB/s", title="the others")
    for panel in (left, right):
        panel.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    figure.suptitle(f"fastbp's kernels, float32, one thread, {machine['processor']}", fontsize=11)
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, seconds=0.05)
    families = measuring.one_of(FAMILIES)
    parser.add_argument("--families", type=families, default=list(FAMILIES), help="by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="the first shapes of each family alone")
    options = parser.parse_args()
    torch_too = sides.installed("torch")
    sides.fastbp_threads(1)
    if torch_too:
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    else:
        print("PyTorch is not installed: oneDNN is left out")
    machine = measuring.machine(*["torch"] * torch_too)
    levels = machine["caches"]
    sizes = np.geomspace(levels["L1"] / 4, 8 * levels["L3"], 5 if options.quick else 20)
    triad = [(int(size), measuring.bandwidth(int(size))) for size in sizes]
    places = {"L2": levels["L2"] // 2, "L3": levels["L3"] // 2, "memory": 4 * levels["L3"]}
    bandwidth = {name: measuring.bandwidth(size) for name, size in places.items()}
    limits = {"peak": measuring.peak(), "bandwidth": bandwidth, "triad": triad}
    print(measuring.describe(machine))
    rates = ", ".join(f"{rate:.0f} GB/s from {name}" for name, rate in bandwidth.items())
    print(f"measured on one thread: {limits['peak']:.1f} GFLOP/s, {rates}")
    columns = ("kernel:-11", "shape:-34", "pass:-8", "time:9", "rate:10", "of limit:8", "FLOP/B:6", "bytes:8")
    columns += ("torch:9", "ratio:5")
    table, rows = measuring.Table(*columns), []
    for family in options.families:
        for case in MAKERS[family](options.quick, torch_too):
            for row in rows_of(case, options.seconds):
                show(table, row, limits)
                rows.append(row)
    ratios = [row["torch_seconds"] / row["seconds"] for row in rows if row["torch_seconds"] and row["seconds"]]
    if ratios:
        mean, lost = statistics.geometric_mean(ratios), sum(ratio < 1 for ratio in ratios)
        print(f"torch / fastbp: geometric mean {mean:.2f}, smallest {min(ratios):.2f}, lost {lost} of {len(ratios)}")
    measuring.write_json(options.json, {"machine": machine, "limits": limits, "rows": rows})
    if options.figure:
        measuring.write_figure(options.figure, draw(rows, limits, machine))


if __name__ == "__main__":
    measuring.run(main)
