"""`fastbp predict`, and the table of classes that `fastbp train` prints too."""

from pathlib import Path

import numpy as np

from ..losses import SoftmaxCrossEntropy
from ..training import predict, predict_proba
from .choices import load_data, load_network
from .streams import Failure


def classify(options) -> int:
    """Print the classes of image files, each with its probability, or the results on the test set."""
    network = load_network(options.network)
    try:
        name, classes, shape = (network.metadata[key] for key in ("data", "classes", "input_shape"))
    except KeyError:
        why = "was not written by fastbp train: it does not say what data it is for"
        raise Failure(f"{options.network} {why}") from None
    if options.images:
        for path in options.images:
            x = _read_image(path, tuple(shape), options.invert, network.dtype)
            chances = predict_proba(network, x)[0]
            best = np.argsort(chances)[::-1][:3]
            print(f"{path}: {classes[best[0]]}  (" + ", ".join(f"{classes[c]} {chances[c]:.1%}" for c in best) + ")")
        return 0
    data = load_data(name, options.data_dir, network.dtype)
    predicted = predict(network, data.test.x, loss=SoftmaxCrossEntropy())
    print(class_table(predicted, data.test.y, data.classes))
    print(f"test accuracy {np.mean(predicted == data.test.y):.2%}")
    return 0


def _read_image(path: Path, shape: tuple[int, int, int], invert: bool, dtype: np.dtype) -> np.ndarray:
    """The image as (1, C, H, W) in [0, 1], resized to the network's input."""
    from PIL import Image, ImageOps

    from ..datasets.image_files import eight_bits, open_image

    with open(path, "rb") as file:
        image = eight_bits(open_image(file, path), path)
    image = image.convert("L" if shape[0] == 1 else "RGB").resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(ImageOps.invert(image) if invert else image, dtype) / 255
    return pixels[None, None] if shape[0] == 1 else pixels.transpose(2, 0, 1)[None]


def class_table(predicted: np.ndarray, labels: np.ndarray, classes) -> str:
    """Images, right ones and the commonest mistake of each class."""
    width = max(len("class"), *map(len, classes))
    lines = [f"{'class':<{width}}  images  right  accuracy  most often taken for"]
    for label, name in enumerate(classes):
        of_class = predicted[labels == label]
        right = int((of_class == label).sum())
        mistakes = np.bincount(of_class[of_class != label], minlength=len(classes))
        worst = f"{classes[mistakes.argmax()]} ({mistakes.max()})" if mistakes.any() else ""
        share = f"{right / len(of_class):.2%}" if len(of_class) else "-"
        lines.append(f"{name:<{width}}  {len(of_class):>6}  {right:>5}  {share:>8}  {worst}".rstrip())
    return "\n".join(lines)
