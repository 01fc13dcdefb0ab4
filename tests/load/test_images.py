"""Folders of images: which files are samples, and which values an image gives, whatever its file holds."""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from probekit import load
from probekit.errors import DataError


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class Bomb:
    """A pickle that writes a file where it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.path, "w")

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def picture(file: Path, size: tuple[int, int], value: tuple[int, int, int] | None = None) -> Path:
    """A PNG of (width, height), of one colour or of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = images(size[1], size[0], 3) if value is None else np.full((size[1], size[0], 3), value, np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def test_a_folder_of_images_is_a_class_a_folder(tmp_path: Path) -> None:
    colours = {"cat/b.png": (255, 0, 51), "cat/a.png": (0, 0, 0), "eel/in/c.png": (0, 102, 0), "dog/d.png": (9, 9, 9)}
    for place, (path, colour) in enumerate(colours.items()):
        picture(tmp_path / path, (300 - place, 250), colour)
    data = load.dataset(f"imagefolder:{tmp_path}")
    assert isinstance(data, load.ImageFolder)
    assert (data.classes, data.targets) == (["cat", "dog", "eel"], [0, 0, 1, 2])
    assert data.paths == ["cat/a.png", "cat/b.png", "dog/d.png", "eel/in/c.png"]
    for (x, label), target, path in zip(data, data.targets, data.paths, strict=True):
        assert (x.shape, x.dtype, label) == ((3, 224, 224), torch.float32, target)
        np.testing.assert_allclose(x.mean((1, 2)), np.array(colours[path]) / 255, atol=1e-6)
    x, labels = next(iter(DataLoader(data, batch_size=3)))
    assert (tuple(x.shape), labels.tolist()) == ((3, 3, 224, 224), [0, 0, 1])


def test_an_image_is_resized_and_its_centre_cut_out(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "wide.png", (448, 336))
    [(x, _)] = load.dataset(f"imagefolder:{tmp_path}")
    resized = Image.open(file).resize((298, 224), Image.Resampling.BILINEAR)  # 448 / 336 · 224 = 298.7
    expected = np.asarray(resized)[:, 37 : 37 + 224].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)


def test_a_limit_keeps_the_first_images_and_all_classes(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", "dog/c.png"):
        picture(tmp_path / name, (8, 8))
    data = load.dataset(f"imagefolder:{tmp_path}", "all", limit=2)
    assert (len(data), data.targets, data.classes) == (2, [0, 1], ["cat", "dog"])
    assert len(list(data)) == 2


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "cut.png", (64, 64))
    data = load.dataset(f"imagefolder:{tmp_path}")
    for content in (file.read_bytes()[:500], b"no image", pickle.dumps(Bomb(tmp_path / "went-off"))):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"cut\.png' can't be decoded as an image"):
            data[0]
    assert not (tmp_path / "went-off").exists()


def test_links_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "images"
    picture(root / "cat" / "a.png", (8, 8))
    picture(tmp_path / "elsewhere" / "b.png", (8, 8))
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    for name in ("again", "and-again"):
        (root / "cat" / name).symlink_to(root)
        (tmp_path / "elsewhere" / name).symlink_to(root / "cat")
    assert load.dataset(f"imagefolder:{root}").paths == ["cat/a.png", "cat/more/b.png"]


@pytest.mark.parametrize(
    ("folders", "split", "message"),
    [
        (None, "train", "There is no folder"),
        ([], "train", "one folder of images for each class"),
        (["cat", "dog"], "train", r"there is none of the classes cat, dog\. .*\.png"),
        ([".cat", "__MACOSX"], "train", "has no folders"),
        (["train", "val"], "train", r"has the folders train, val: splits, not classes.*imagefolder:.*train'"),
        (["cat"], "test", "has no test set"),
        (["cat"], "validation", "no split 'validation'"),
    ],
)
def test_a_folder_without_class_folders(folders: list[str] | None, split: Any, message: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    for folder in folders or ():
        (root / folder).mkdir(parents=True)
    if folders is not None:
        root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        load.dataset(f"imagefolder:{root}", split)
    with pytest.raises(DataError, match=r"no arrays.*load\.dataset"):
        load.arrays(f"imagefolder:{root}")


def only(folder: Path) -> torch.Tensor:
    """The single image of a folder."""
    [(x, _)] = load.dataset(f"imagefolder:{folder}")
    return x


def png(file: Path, pixels: np.ndarray) -> None:
    """Write a PNG of 16 bits, which Pillow can't: of grey (y, x) or colour (y, x, 3)."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def pgm(file: Path, pixels: np.ndarray) -> None:
    height, width = pixels.shape
    file.write_bytes(b"P5 %d %d 65535\n" % (width, height) + pixels.astype(">u2").tobytes())


def tiff(file: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(file)


def tiff_big_endian(file: Path, pixels: np.ndarray) -> None:
    Image.frombytes("I;16B", pixels.shape[::-1], pixels.astype(">u2").tobytes()).save(file)


RAMP = np.linspace(0, 65535, 224 * 224).round().astype(np.uint16).reshape(224, 224)


@pytest.mark.parametrize(
    ("write", "name"), [(png, "a.png"), (pgm, "a.pgm"), (tiff, "a.tif"), (tiff_big_endian, "a.TIFF")]
)
def test_sixteen_bits_go_from_0_to_1(write: Callable[[Path, np.ndarray], None], name: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    write(tmp_path / "cat" / name, RAMP)
    x = only(tmp_path)
    assert (x.shape, x.dtype) == ((3, 224, 224), torch.float32)
    np.testing.assert_allclose(x, np.stack([RAMP / 65535] * 3), atol=1e-6)
    assert (x.min(), x.max()) == (0, 1)


def test_colours_of_sixteen_bits_go_from_0_to_1(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    colours = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 65535)], axis=2)
    png(tmp_path / "cat" / "a.png", colours)
    np.testing.assert_allclose(only(tmp_path), colours.transpose(2, 0, 1) / 65535, atol=1 / 255)


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    values = (np.random.default_rng(0).normal(size=(224, 224)) * 1000).astype(np.float32)
    tiff(tmp_path / "cat" / "a.tif", values)
    np.testing.assert_array_equal(only(tmp_path), np.stack([values] * 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_other_images_become_colours_from_0_to_1(mode: str, tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "a.tif", (224, 224))
    image = Image.open(file).convert(mode)
    image.save(file)
    expected = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(only(tmp_path), expected, atol=1e-6)


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how the stored pixels of an upright image lie
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: np.rot90,  # the camera was turned, and a viewer turns the image clockwise
    7: lambda upright: np.swapaxes(np.rot90(upright, 2), 0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_an_image_stands_upright(orientation: int, name: str, tmp_path: Path) -> None:
    upright = images(224, 224, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").mkdir()
    options = {"lossless": True} if name == "a.webp" else {}
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright)))
    stored.save(tmp_path / "cat" / name, exif=exif, **options)
    np.testing.assert_allclose(only(tmp_path), upright.transpose(2, 0, 1) / 255, atol=1e-6)


def test_what_is_hidden_is_no_sample(tmp_path: Path) -> None:
    for name in ("cat/a.png", ".ipynb_checkpoints/a.png", "cat/.cache/b.png", "cat/._a.png", "__MACOSX/cat/._a.png"):
        picture(tmp_path / name, (8, 8))
    (tmp_path / ".DS_Store").write_text("")
    data = load.dataset(f"imagefolder:{tmp_path}")
    assert (data.classes, data.paths) == (["cat"], ["cat/a.png"])


def test_hidden_folders_make_no_class_of_splits(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "cat" / "a.png", (8, 8))
    picture(tmp_path / ".git" / "a.png", (8, 8))
    with pytest.raises(DataError, match="has the folders train: splits, not classes"):
        load.dataset(f"imagefolder:{tmp_path}")


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png", (8, 8))
    for name in ("cat/notes.txt", "cat/in/b.gif", "beside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(
        UserWarning, match=r"3 of the files .* not read: 'beside.png', 'cat/notes.txt', 'cat/in/b.gif'\..*1 are"
    ):
        data = load.dataset(f"imagefolder:{tmp_path}")
    assert data.paths == ["cat/a.png"]
    for number in range(9):
        (tmp_path / "cat" / f"{number}.txt").write_text("")
    with pytest.warns(UserWarning, match=r"^12 of the files .* and 7 more\."):
        load.dataset(f"imagefolder:{tmp_path}")


def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for size, fault in (((15_000, 15_000), "decompression bomb"), ((1, 60_000), "1 x 60000 pixels, and 3010560000 ")):
        Image.new("1", size).save(tmp_path / "cat" / "bomb.png")
        with pytest.raises(DataError, match=rf"bomb\.png' can't be decoded as an image: .*{fault}"):
            only(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.ppm"])
def test_whatever_a_damaged_file_raises_its_name_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    file = tmp_path / "cat" / name
    Image.fromarray(images(40, 30, 3)).save(file)
    content, rng = file.read_bytes(), np.random.default_rng(0)
    data = load.dataset(f"imagefolder:{tmp_path}")
    for kept in (*range(60), len(content) // 2):
        file.write_bytes(content[:kept])
        with pytest.raises(DataError, match=f"{name}' can't be decoded"):
            data[0]
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, 120, 4)] = rng.integers(0, 256, 4)
        file.write_bytes(damaged.tobytes())
        try:
            assert data[0][0].shape == (3, 224, 224)
        except DataError as error:
            assert name in str(error)  # noqa: PT017


def test_integers_without_a_white_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    tiff(tmp_path / "cat" / "a.tif", RAMP.astype(np.int32))
    with pytest.raises(DataError, match=r"a\.tif' holds 32-bit or signed integers.*8 or 16 bits"):
        only(tmp_path)
