"""Augmentation: flips and crops are windows of the images that were given, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbp import SGD, Flatten, Linear, Sequential, SoftmaxCrossEntropy, fit
from fastbp.datasets import AlternatingFlip, RandomCrop, RandomFlip


def images(N=40, C=3, H=6, W=5, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(N, C, H, W)).astype(dtype)


def places(image, result, padding):
    """Every (down, right) by which `result` is `image` shifted with zeros coming in: all are tried, pixel by pixel."""
    C, H, W = image.shape
    found = []
    for down in range(-padding, padding + 1):
        for right in range(-padding, padding + 1):
            expected = np.zeros_like(image)
            for h in range(H):
                for w in range(W):
                    if 0 <= h + down < H and 0 <= w + right < W:
                        expected[:, h, w] = image[:, h + down, w + right]
            if np.array_equal(expected, result):
                found.append((down, right))
    return found


def test_a_flip_is_the_image_or_its_mirror_half_of_each():
    x = images(400)
    y = RandomFlip()(x, np.random.default_rng(3))
    mirrored = np.array([np.array_equal(b, np.flip(a, axis=2)) for a, b in zip(x, y, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(x, y, strict=True)])
    assert (mirrored ^ same).all()
    assert 160 <= mirrored.sum() <= 240  # four standard deviations of 400 throws


def test_each_crop_is_a_window_of_the_padded_image_and_all_places_occur():
    x = images(250, 2, 4, 3)
    y = RandomCrop(padding=2)(x, np.random.default_rng(3))
    found = [places(a, b, 2) for a, b in zip(x, y, strict=True)]
    assert all(len(there) == 1 for there in found)
    assert len({there[0] for there in found}) == 25


def test_a_padding_wider_than_the_image_may_leave_zeros_only():
    x = images(200, 1, 2, 2)
    y = RandomCrop(padding=3)(x, np.random.default_rng(0))
    assert all(places(a, b, 3) for a, b in zip(x, y, strict=True))
    assert any(not b.any() for b in y) and any(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("shape", [(4, 2, 3, 5), (4, 1, 1, 1)])
def test_a_padding_of_any_size_takes_no_more_memory(shape):
    y = RandomCrop(2**62 - 1)(np.ones(shape), np.random.default_rng(0))
    assert y.shape == shape and not y.any()  # one of 10³⁷ places shows anything
    with pytest.raises(ValueError, match="RandomCrop: padding must be an int of at most"):
        RandomCrop(2**62)


@pytest.mark.parametrize("change", [RandomFlip(), RandomCrop()])
def test_what_is_no_array_of_numbers_or_no_generator_is_an_error(change):
    rng = np.random.default_rng(0)
    for wrong in (
        None,
        "images",
        {},
        np.empty((1, 1, 2, 2), object),
        np.ma.masked_array(images()),
        np.full((1, 1, 2, 2), "a"),
    ):
        with pytest.raises(TypeError, match=f"{type(change).__name__}: x "):
            change(wrong, rng)
    for wrong in (None, 0, np.random.RandomState(0), np.random.Generator):
        with pytest.raises(TypeError, match=f"{type(change).__name__}: rng must be a numpy.random.Generator"):
            change(images(), wrong)
    found = [change(x, np.random.default_rng(1)) for x in (images().tolist(), images().astype(float))]
    np.testing.assert_array_equal(*found)  # lists are arrays


@given(
    shape=st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4)),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
    change=st.sampled_from([RandomFlip(), RandomCrop(1), RandomCrop(3)]),
)
def test_shape_and_dtype_are_kept_and_the_images_that_were_given_too(shape, dtype, change):
    x = (images(*shape) * 50).astype(dtype)
    before = x.copy()
    x.flags.writeable = False
    y = change(x, np.random.default_rng(0))
    assert y.shape == x.shape and y.dtype == dtype and not np.shares_memory(x, y)
    np.testing.assert_array_equal(x, before)
    y[...] = 0  # the result may be written to


@pytest.mark.parametrize("change", [RandomFlip(), RandomCrop()])
def test_the_generator_alone_decides(change):
    x = images()
    first, again, other = (change(x, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    rng = np.random.default_rng(1)
    assert not np.array_equal(change(x, rng), change(x, rng))


@pytest.mark.parametrize("change", [RandomFlip(), RandomCrop()])
def test_an_array_that_is_not_contiguous_is_changed_alike(change):
    x = images()
    spread = np.repeat(x, 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(change(spread, np.random.default_rng(1)), change(x, np.random.default_rng(1)))


@pytest.mark.parametrize("change", [RandomFlip(), RandomCrop()])
@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 4, 4), (5, 1, 1, 4, 4)])
def test_what_is_no_batch_of_images_is_an_error(change, shape):
    with pytest.raises(
        ValueError, match=rf"{type(change).__name__}: expected images \(N, C, H, W\), got \({shape[0]},"
    ):
        change(np.zeros(shape), np.random.default_rng(0))


@pytest.mark.parametrize("padding, kind", [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_a_wrong_padding_is_an_error(padding, kind):
    with pytest.raises(kind, match="RandomCrop: padding"):
        RandomCrop(padding)


def test_training_with_both_sees_other_batches_every_epoch_and_the_same_ones_again_with_the_same_seed():
    x, labels = images(30), np.random.default_rng(1).integers(0, 3, 30)

    def trained(seed):
        seen = []

        def keep(x, rng):
            seen.append(x.copy())
            return x

        network = Sequential(Flatten(), Linear(90, 3))
        augment = [RandomCrop(2), RandomFlip(), keep]
        fit(
            network,
            SoftmaxCrossEntropy(),
            SGD(),
            (x, labels),
            epochs=2,
            batch_size=30,
            seed=seed,
            progress=False,
            augment=augment,
        )
        return network.parameter_vector, *seen[1:]

    first, again, other = trained(5), trained(5), trained(6)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.tobytes() == two.tobytes() != three.tobytes()
    order = [np.random.default_rng([5, epoch]).permutation(30) for epoch in range(2)]
    for batch, chosen in zip(first[1:], order, strict=True):
        for image, result in zip(x[chosen], batch, strict=True):
            assert places(image, result, 2) or places(image, result[..., ::-1], 2)
    assert not np.array_equal(first[1][np.argsort(order[0])], first[2][np.argsort(order[1])])


# -- flips by turns, and reflected borders -----------------------------------------------------------------------------


def flipped(x, y):
    """For each image whether it is mirrored; all must be one or the other."""
    same = np.array([np.array_equal(a, b) for a, b in zip(x, y, strict=True)])
    mirrored = np.array([np.array_equal(a, b[:, :, ::-1]) for a, b in zip(x, y, strict=True)])
    assert (same ^ mirrored).all()
    return mirrored


def test_by_turns_each_image_is_mirrored_every_other_epoch_first_a_random_half():
    x, rng, numbers = images(400), np.random.default_rng(0), np.arange(400)
    seen = [flipped(x, AlternatingFlip()(x, rng, numbers, epoch, seed=3)) for epoch in range(4)]
    assert 160 <= seen[0].sum() <= 240  # four standard deviations of 400 throws
    assert np.array_equal(seen[1], ~seen[0]) and np.array_equal(seen[2], seen[0]) and np.array_equal(seen[3], seen[1])
    other = flipped(x, AlternatingFlip()(x, rng, numbers, 0, seed=4))
    assert 140 <= (other ^ seen[0]).sum() <= 260  # another half with another seed
    some = np.array([7, 399, 7, 0])
    assert np.array_equal(flipped(x[some], AlternatingFlip()(x[some], rng, some, 0, seed=3)), seen[0][some])
    # neighbours are as different as any
    assert 150 <= (seen[0][1:] ^ seen[0][:-1]).sum() <= 250


def test_fit_tells_which_images_a_batch_holds():
    x, seen, order = images(30), [], []

    def keep(x, rng, seed, indices, epoch):
        seen.append((x.copy(), indices.copy(), epoch, seed))
        return x

    def trained():
        network, labels = Sequential(Flatten(), Linear(90, 3)), np.arange(30) % 3
        options = {"epochs": 3, "batch_size": 8, "seed": 5, "augment": [AlternatingFlip(), keep], "progress": False}
        fit(network, SoftmaxCrossEntropy(), SGD(), (x, labels), **options)

    trained()
    tried, batches = seen[0], seen[1:]
    assert tried[1].tolist() == [0, 1] and len(batches) == 12
    by_epoch = [batches[:4], batches[4:8], batches[8:]]
    flips = []
    for epoch, four in enumerate(by_epoch):
        indices = np.concatenate([each[1] for each in four])
        assert sorted(indices) == list(range(30)) and {each[2:] for each in four} == {(epoch, 5)}
        order.append(indices)
        mirrored = np.empty(30, bool)
        mirrored[indices] = flipped(x[indices], np.concatenate([each[0] for each in four]))
        flips.append(mirrored)
    assert not np.array_equal(order[0], order[1])
    assert np.array_equal(flips[1], ~flips[0]) and np.array_equal(flips[2], flips[0])


def test_reflected_crops_are_windows_of_the_mirrored_borders():
    x = images(300, 2, 5, 4)
    y = RandomCrop(2, padding_mode="reflect")(x, np.random.default_rng(1))
    found = set()
    for image, result in zip(x, y, strict=True):
        at = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if all(
                np.array_equal(result[:, i, j], image[:, mirrored(i + down, 5), mirrored(j + right, 4)])
                for i in range(5)
                for j in range(4)
            )
        ]
        assert len(at) == 1
        found.update(at)
    assert len(found) == 25  # all places occur


def mirrored(i, size):
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def test_wrong_arguments_of_both_are_clear_errors():
    x, rng = images(4), np.random.default_rng(0)
    flip = AlternatingFlip()
    for error, call, message in [
        (ValueError, lambda: RandomCrop(1, "mirror"), "RandomCrop: padding_mode must be one of 'constant', 'reflect'"),
        (TypeError, lambda: RandomCrop(1, 3), "RandomCrop: padding_mode must be"),
        (ValueError, lambda: RandomCrop(5, "reflect")(x, rng), "RandomCrop: padding 5 reflects images larger than"),
        (ValueError, lambda: flip(x[0], rng, np.arange(4), 0, 0), r"AlternatingFlip: expected images \(N, C, H, W\)"),
        (TypeError, lambda: flip(x, 3, np.arange(4), 0, 0), "AlternatingFlip: rng must be"),
        (ValueError, lambda: flip(x, rng, np.arange(3), 0, 0), r"x \(4, 3, 6, 5\) and indices \(3,\) differ"),
        (TypeError, lambda: flip(x, rng, np.arange(4.0), 0, 0), "AlternatingFlip: indices must be"),
        (ValueError, lambda: flip(x, rng, np.arange(4), -1, 0), "AlternatingFlip: epoch must be"),
        (TypeError, lambda: flip(x, rng, np.arange(4), 0, None), "AlternatingFlip: seed must be"),
    ]:
        with pytest.raises(error, match=message):
            call()
