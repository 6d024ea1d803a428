"""Images as cameras and drawing programs write them, at both doors: folders of images and `fastbp predict`."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fastbp
from fastbp.cli import main
from fastbp.datasets import DataError, read_image_folder

ORIENTATION = 0x0112
# What a camera that is held so stores (EXIF 2.3, tag 274): row and column of the stored pixel that stands at (i, j) of
# the picture, which has h rows and w columns.
HELD = {
    1: lambda i, j, h, w: (i, j),
    2: lambda i, j, h, w: (i, w - 1 - j),
    3: lambda i, j, h, w: (h - 1 - i, w - 1 - j),
    4: lambda i, j, h, w: (h - 1 - i, j),
    5: lambda i, j, h, w: (j, i),
    6: lambda i, j, h, w: (w - 1 - j, i),
    7: lambda i, j, h, w: (w - 1 - j, h - 1 - i),
    8: lambda i, j, h, w: (j, h - 1 - i),
}


def picture(seed=0, size=(6, 9), channels=3):
    """Blocks of 8 × 8 pixels of one colour, which JPEG keeps nearly as they are."""
    blocks = np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def stored(pixels, orientation):
    h, w = pixels.shape[:2]
    result = np.zeros((h, w, *pixels.shape[2:]) if orientation < 5 else (w, h, *pixels.shape[2:]), np.uint8)
    for i in range(h):
        for j in range(w):
            result[HELD[orientation](i, j, h, w)] = pixels[i, j]
    return result


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    tags[0x010F] = "a phone"
    return tags


def image_class(tmp_path, name="0.png"):
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def read(path):
    """The one image of a folder, as (H, W, C)."""
    images, labels, classes = read_image_folder(path.parent.parent)
    assert len(images) == 1 and classes == ("a",) and labels.tolist() == [0]
    return images[0].transpose(1, 2, 0)


@pytest.fixture
def network(tmp_path):
    """Chances that tell images apart, though nothing was trained: a file as fastbp train writes it."""

    def make(shape):
        net = fastbp.Sequential(fastbp.Flatten(), fastbp.Linear(int(np.prod(shape)), 10), seed=1)
        net.metadata = {"data": "digits", "classes": list("0123456789"), "input_shape": list(shape)}
        net.save(tmp_path / "network.npz")
        return tmp_path / "network.npz"

    return make


def predicted(capsys, network, *paths):
    assert main(["predict", str(network), *map(str, paths)]) == 0
    return [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]


# -- orientation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", HELD)
@pytest.mark.parametrize(
    "suffix, options",
    [("jpg", {"quality": 100, "subsampling": 0}), ("png", {}), ("tif", {}), ("webp", {"lossless": True})],
)
def test_a_photo_stands_upright_however_the_camera_was_held(tmp_path, orientation, suffix, options):
    pixels = picture()
    path = image_class(tmp_path, f"0.{suffix}")
    Image.fromarray(stored(pixels, orientation)).save(path, exif=exif(orientation), **options)
    found = read(path)
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() <= (4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_predict_sees_photos_upright(tmp_path, capsys, network, channels):
    pixels = picture(channels=3) if channels == 3 else picture(channels=1)[:, :, 0]
    paths = []
    for orientation in HELD:
        paths.append(tmp_path / f"{orientation}.png")
        Image.fromarray(stored(pixels, orientation)).save(paths[-1], exif=exif(orientation))
    Image.fromarray(stored(pixels, 6)).save(tmp_path / "lying.png")
    upright, *others, lying = predicted(capsys, network((channels, 16, 24)), *paths, tmp_path / "lying.png")
    assert others == [upright] * 7 and lying != upright


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_unknown_orientation_changes_nothing(tmp_path, orientation):
    path = image_class(tmp_path)
    Image.fromarray(picture()).save(path, exif=exif(orientation))
    np.testing.assert_array_equal(read(path), picture())


@pytest.mark.parametrize("tags", [b"Exif\0\0nonsense", b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05\x01\x12\0\3", b"Exif\0\0"])
def test_damaged_tags_do_not_cost_the_image(tmp_path, tags, recwarn):
    path = image_class(tmp_path, "0.jpg")
    Image.fromarray(picture()).save(path, quality=100, subsampling=0, exif=tags)
    assert np.abs(read(path).astype(int) - picture()).max() <= 4
    assert not recwarn


def test_other_damaged_tags_leave_the_orientation(tmp_path):
    path = image_class(tmp_path)
    tags = bytearray(exif(6).tobytes())
    place = tags.index(b"\x01\x0f" if b"MM" in tags[:10] else b"\x0f\x01")
    tags[place + 4 : place + 8] = b"\xff" * 4  # four thousand million letters
    Image.fromarray(stored(picture(), 6)).save(path, exif=bytes(tags))
    np.testing.assert_array_equal(read(path), picture())


def test_photos_held_in_two_ways_have_one_size(tmp_path):
    for k, orientation in enumerate([1, 6, 3, 8]):
        Image.fromarray(stored(picture(k), orientation)).save(image_class(tmp_path, f"{k}.png"), exif=exif(orientation))
    images, _, _ = read_image_folder(tmp_path / "set")
    np.testing.assert_array_equal(images.transpose(0, 2, 3, 1), [picture(k) for k in range(4)])


# -- transparency ------------------------------------------------------------------------------------------------------


def drawing(shade=0, size=16):
    """Strokes of one shade with soft edges, as (H, W, 4): what is under transparent pixels differs from them."""
    y, x = np.mgrid[:size, :size]
    opacity = np.clip(255 * (1.6 - np.abs(x - size // 2) / 1.5), 0, 255) * (abs(y - size / 2) < size / 3)
    pixels = np.full((size, size, 4), shade, np.uint8)
    pixels[..., 3] = opacity
    pixels[opacity == 0, :3] = 255 - shade
    return pixels


def over(pixels, paper):
    """The definition: colour · a + paper · (1 - a), in fractions."""
    a = pixels[..., 3:] / 255
    return pixels[..., :3] * a + paper * (1 - a)


def save_transparent(path, pixels, mode):
    image = Image.fromarray(pixels)
    if mode == "P":  # colours and opacities in one palette
        colours, places = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
        image = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8))
        image.putpalette(colours[:, :3].tobytes())
        image.save(path, transparency=bytes(colours[:, 3].tolist()))
    else:
        image.convert(mode).save(path, lossless=True, exact=True) if path.suffix == ".webp" else image.convert(
            mode
        ).save(path)


@pytest.mark.parametrize(
    "suffix, mode", [("png", "RGBA"), ("png", "LA"), ("png", "P"), ("tif", "RGBA"), ("webp", "RGBA")]
)
@pytest.mark.parametrize("shade, paper", [(0, 255), (100, 255), (200, 0), (255, 0)])
def test_ink_on_transparent_paper_is_ink_on_paper(tmp_path, suffix, mode, shade, paper):
    path = image_class(tmp_path, f"0.{suffix}")
    save_transparent(path, drawing(shade), mode)
    found = read(path)
    assert found.shape[2] == (1 if mode == "LA" else 3)
    np.testing.assert_allclose(found, over(drawing(shade), paper)[..., : found.shape[2]], atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_predict_sees_ink_on_transparent_paper_as_ink_on_paper(tmp_path, capsys, network, mode):
    net = network((1, 8, 8))
    for shade, paper in ((0, 255), (255, 0)):
        path = tmp_path / f"{shade}.png"
        save_transparent(path, drawing(shade), mode)
        sheet = Image.fromarray(np.round(over(drawing(shade), paper)).astype(np.uint8))
        sheet.save(tmp_path / "sheet.png")
        Image.new("L", (16, 16), shade).save(tmp_path / "ink.png")
        found, expected, ink = predicted(capsys, net, path, tmp_path / "sheet.png", tmp_path / "ink.png")
        assert found == expected != ink


@given(seed=st.integers(0, 999), strength=st.integers(1, 255), dark=st.booleans())
def test_the_paper_is_black_only_if_all_that_is_drawn_is_light(tmp_path_factory, seed, strength, dark):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (8, 8, 4), np.uint8)
    pixels[..., 3] = rng.integers(0, (strength + 1) // 2, (8, 8))  # faint, whatever the shade
    strokes = rng.random((8, 8)) < 0.3
    strokes[3, 4] = True
    pixels[strokes] = [[int(shade)] * 3 + [strength] for shade in rng.integers(128, 256, strokes.sum())]
    if dark:
        pixels[3, 4, :3] = 127
    path = image_class(tmp_path_factory.mktemp("paper"))
    Image.fromarray(pixels).save(path)
    np.testing.assert_allclose(read(path), over(pixels, 255 if dark else 0), atol=1)


def test_an_empty_sheet_is_white_and_an_opaque_image_stays_as_it_is(tmp_path):
    path = image_class(tmp_path)
    Image.new("RGBA", (5, 4), (9, 9, 9, 0)).save(path)
    assert (read(path) == 255).all()
    pixels = np.concatenate([picture(), np.full((48, 72, 1), 255, np.uint8)], axis=2)
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read(path), picture())


@pytest.mark.parametrize(
    "mode, key, shades", [("L", 200, [10, 255, 30]), ("1", 1, [0, 255, 0]), ("RGB", (200, 200, 200), [10, 255, 30])]
)
def test_one_colour_may_stand_for_transparent(tmp_path, mode, key, shades):
    path = image_class(tmp_path)
    Image.fromarray(np.array([[10, 200, 30]], np.uint8)).convert(mode, dither=0).save(path, transparency=key)
    found = read(path)
    assert found.shape[2] == (3 if mode == "RGB" else 1) and found[0, :, 0].tolist() == shades


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.fromarray(picture(k, (2, 3), 1)[..., 0]) for k in range(3)]
    frames[0].save(image_class(tmp_path, "0.gif"), save_all=True, append_images=frames[1:])
    frames[0].save(image_class(tmp_path, "1.tiff"), save_all=True, append_images=frames[1:])
    frames[0].save(image_class(tmp_path, "2.png"), save_all=True, append_images=frames[1:])
    images, _, _ = read_image_folder(tmp_path / "set")
    assert len(images) == 3
    for image in images:
        np.testing.assert_array_equal(image[0], picture(0, (2, 3), 1)[..., 0])


def test_greyscale_stays_greyscale_beside_transparency(tmp_path):
    Image.fromarray(drawing()).convert("LA").save(image_class(tmp_path, "0.png"))
    Image.new("L", (16, 16), 7).save(image_class(tmp_path, "1.png"))
    assert read_image_folder(tmp_path / "set")[0].shape == (2, 1, 16, 16)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(image_class(tmp_path, "2.jpg"))
    images = read_image_folder(tmp_path / "set")[0]
    assert images.shape == (3, 3, 16, 16) and (images[1] == 7).all()
    assert np.abs(images[2, :, 8, 8].astype(int) - [255, 0, 0]).max() < 4


# -- depth, size, damage -----------------------------------------------------------------------------------------------


def test_predict_scales_sixteen_bits(tmp_path, capsys, network):
    shades = np.random.default_rng(0).integers(0, 256, (8, 8))
    Image.fromarray(shades.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((shades * 257).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray((shades * 257).astype(np.uint16)).save(tmp_path / "16.tif")
    (tmp_path / "16.pgm").write_bytes(b"P5 8 8 65535\n" + (shades * 257).astype(">u2").tobytes())
    names = ("8.png", "16.png", "16.tif", "16.pgm")
    eight, *others = predicted(capsys, network((1, 8, 8)), *(tmp_path / name for name in names))
    assert others == [eight] * 3


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_predict_refuses_pixels_without_a_known_white(tmp_path, capsys, network, kind):
    Image.fromarray(np.ones((8, 8), kind)).save(tmp_path / "x.tif")
    assert main(["predict", str(network((1, 8, 8))), str(tmp_path / "x.tif")]) == 1
    assert "x.tif: expected an image of 8 or 16 bits" in capsys.readouterr().err


def test_folders_refuse_more_than_eight_bits_in_every_format(tmp_path):
    path = image_class(tmp_path, "0.pgm")
    path.write_bytes(b"P5 2 1 65535\n" + bytes(4))
    with pytest.raises(DataError, match="0.pgm: expected an 8-bit image"):
        read_image_folder(tmp_path / "set", skip_unreadable=True)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = image_class(tmp_path)
    small = io.BytesIO()
    Image.new("1", (3, 3)).save(small, "PNG")
    content = bytearray(small.getvalue())
    place = content.index(b"IHDR")
    content[place + 4 : place + 12] = (100_000).to_bytes(4, "big") * 2
    content[place + 17 : place + 21] = zlib.crc32(content[place : place + 17]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DataError, match="too large"):
        read_image_folder(tmp_path / "set")


@given(data=st.data())
def test_damaged_images_are_an_error_of_one_kind(tmp_path_factory, data):
    suffix = data.draw(st.sampled_from(["png", "jpg", "gif", "bmp", "ppm", "webp"]))
    path = image_class(tmp_path_factory.mktemp("damaged"), f"0.{suffix}")
    Image.fromarray(picture(size=(2, 3))).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_image_folder(path.parent.parent)[0].dtype == np.uint8
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
