"""Drawn networks, saved and loaded, copied and pickled: nothing of them may change."""

import copy
import pickle
import zipfile
from pathlib import Path

import fastbp
from fastbp.training import outputs

from .made import Made, digest, draw_network, draw_optimizer, of_network
from .trials import Trial

METADATA = (None, True, 3, -0.5, 1e308, "ß 漢 \n", [], [1, [2, {"a": None}]], {"nested": {"x": [1.5]}})


def trial(trial: Trial) -> None:
    """Train a little; every copy has the same parameters, state and outputs, and goes on training with the same
    bits."""
    rng, trial.tried = trial.rng, 1
    made = draw_network(rng, own=True)
    optimizer = draw_optimizer(rng)
    trainer = fastbp.Trainer(made.network, made.loss, optimizer)
    for _ in range(rng.integers(0, 4)):
        trainer.step(*made.batch(rng, int(rng.integers(1, 12))))
    keys = rng.permutation(["a", "", "ключ", "data", "classes"])[: rng.integers(0, 4)]
    made.network.metadata = {str(key): METADATA[rng.integers(len(METADATA))] for key in keys}
    batch = made.batch(rng, int(rng.integers(1, 12)))
    expected = of_network(made.network), *future(*copy.deepcopy((made.network, optimizer)), made, batch)
    for name, (network, its_optimizer) in copies(trial, made, optimizer).items():
        trial.note(f"{name} of {made.network!r}".replace("\n", ""))
        found = of_network(network), *future(network, its_optimizer, made, batch)
        names = ("parameters, state or metadata", "outputs", "losses", "parameters after training on")
        for what, one, other in zip(names, found, expected, strict=True):
            trial.expect(one == other, f"{name}: {what} differ, of {made.network!r}")
    trial.expect(of_network(made.network) == expected[0], f"to copy it changed {made.network!r}")


def future(network: fastbp.Sequential, optimizer: fastbp.Optimizer, made: Made, batch) -> tuple:
    """What comes out of it, and what comes of it in two more steps."""
    y = outputs(network, batch[0])
    trainer = fastbp.Trainer(network, made.loss, optimizer)
    losses = [trainer.step(*batch) for _ in range(2)]
    return digest(y), digest(losses), of_network(network)


def copies(trial: Trial, made: Made, optimizer: fastbp.Optimizer) -> dict[str, tuple]:
    network, path = made.network, trial.folder / trial.choose("network.npz", "no ending", "Größe.npz")
    network.save(str(path) if trial.rng.random() < 0.5 else path)
    trial.expect_files(trial.folder, path.name, after="save")
    protocol = int(trial.rng.integers(2, pickle.HIGHEST_PROTOCOL + 1))
    buffers: list[pickle.PickleBuffer] = []
    apart = pickle.dumps((network, optimizer), protocol=5, buffer_callback=buffers.append)
    read_only = [bytes(buffer.raw()) for buffer in buffers]  # as Dask, Ray and loky hand them over
    made = {
        "load": (fastbp.load(path), copy.deepcopy(optimizer)),
        "load of the file in another form": (fastbp.load(repacked(trial, path)), copy.deepcopy(optimizer)),
        "deepcopy": copy.deepcopy((network, optimizer)),
        f"pickle, protocol {protocol}": pickle.loads(pickle.dumps((network, optimizer), protocol)),
        "pickle with buffers apart": pickle.loads(apart, buffers=read_only),
    }
    fresh = copy.deepcopy(network)
    fresh.parameter_vector[:] = 7
    fresh.load_state_dict(network.state_dict())
    made["load_state_dict"] = fresh, copy.deepcopy(optimizer)
    return made


def repacked(trial: Trial, path: Path) -> Path:
    """The same arrays, as another program could have zipped them: compressed, in another order, or with a comment."""
    target, rng = path.with_suffix(".repacked"), trial.rng
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", trial.choose(0, 8, 12, 14)) as archive:
        for name in rng.permutation(source.namelist()):
            archive.writestr(str(name), source.read(str(name)))
        if rng.random() < 0.3:
            archive.comment = rng.bytes(int(rng.integers(1, 100)))
    return target
