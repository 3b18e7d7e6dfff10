"""CIFAR-100: the same images from each of its forms, written here byte by byte, and every fault by its file."""

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.data.cifar import ImageSet, Split, digits, hold_out, read_cifar100
from models.errors import UserError

CLASSES = tuple(f"class_{number}" for number in range(100))
COUNT = 2000  # two sheets


def random_pixels() -> tuple[NDArray[np.uint8], list[int]]:
    """(2000, 3, 32, 32), all different, and their labels."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8), random.integers(0, 100, COUNT).tolist()


PIXELS, LABELS = random_pixels()


# Writers of the three forms


def sheet(pixels: NDArray[np.uint8], rows: int = 25) -> bytes:
    """A WebP picture of 40 tiles a row, pasted one by one."""
    picture = Image.new("RGB", (40 * 32, rows * 32))
    for number, image in enumerate(pixels):
        picture.paste(Image.fromarray(image.transpose(1, 2, 0)), (number % 40 * 32, number // 40 * 32))
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


SHEETS = sheet(PIXELS[:1000]), sheet(PIXELS[1000:])


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def write_sheets(folder: Path) -> Path:
    # Neither the order in the archive nor that of the alphabet is the order of the data set.
    write_tar(folder / "train.tar", {"./10.webp": SHEETS[1], "./9.webp": SHEETS[0]})
    np.save(folder / "train_labels.npy", np.array(LABELS, np.uint8))
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def binary_files() -> dict[str, bytes]:
    records = [bytes([7, label]) + image.tobytes() for label, image in zip(LABELS, PIXELS, strict=True)]
    return {"train.bin": b"".join(records), "fine_label_names.txt": ("\n".join(CLASSES) + "\n").encode()}


def pickled(value: object, python: int = 2) -> bytes:
    """The opcodes that Python 2 (the official files) or Python 3 writes for a value in protocol 2, without its end."""

    def write(value: object) -> bytes:
        match value:
            case None:
                return b"N"
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return b"J" + struct.pack("<i", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case bytes() if python == 2:
                return b"T" + struct.pack("<I", len(value)) + value
            case bytes():
                return b"c_codecs\nencode\n" + write((value.decode("latin1"), "latin1")) + b"R"
            case tuple():
                return b"(" + b"".join(map(write, value)) + b"t"
            case list():
                return b"](" + b"".join(map(write, value)) + b"e"
            case dict():
                return b"}(" + b"".join(write(key) + write(item) for key, item in value.items()) + b"u"
            case np.ndarray():
                core = b"numpy.core.multiarray" if python == 2 else b"numpy._core.multiarray"
                made = b"c" + core + b"\n_reconstruct\n" + b"(cnumpy\nndarray\n" + write((0,)) + write(b"b") + b"tR"
                kind = b"cnumpy\ndtype\n" + write((b"u1" if python == 2 else "u1", False, True)) + b"R"
                kind += write((3, b"|" if python == 2 else "|", None, None, None, -1, -1, 0)) + b"b"
                columns_first = not value.flags.c_contiguous
                state = write(1) + write(value.shape) + kind + write(columns_first) + write(value.tobytes("A"))
                return made + b"(" + state + b"tb"
            case _:
                raise TypeError(type(value))

    return b"\x80\x02" + write(value)


def python_files(python: int = 2, order: str = "C", **changes: object) -> dict[str, bytes]:
    rows = np.asarray(PIXELS.reshape(COUNT, -1), order=order)  # type: ignore[call-overload]
    train = {b"filenames": [b"a_s_1.png"], b"batch_label": b"b", b"fine_labels": LABELS, b"data": rows}
    train |= {key.encode(): value for key, value in changes.items()}
    meta = {b"fine_label_names": [name.encode() for name in CLASSES], b"coarse_label_names": [b"all"]}
    return {"train": pickled(train, python) + b".", "meta": pickled(meta, python) + b"."}


def save(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def archive(path: Path, files: dict[str, bytes], version: str) -> Path:
    other = {f"{version}/file.txt~": b"", f"{version}/test": b"", f"{version}/test.bin": b""}
    write_tar(path, other | {f"{version}/{name}": data for name, data in files.items()}, "w:gz")
    return path


# The forms


FORMS: dict[str, Callable[[Path], Path]] = {
    "sheets": write_sheets,
    "python": lambda folder: save(folder, python_files()),
    "python, columns first": lambda folder: save(folder, python_files(order="F")),
    "python, written by Python 3": lambda folder: save(folder, python_files(python=3)),
    "python in its folder": lambda folder: save(folder / "cifar-100-python", python_files()).parent,
    "python archive": lambda folder: archive(folder / "any.tar.gz", python_files(), "cifar-100-python"),
    "python archive in a folder": lambda folder: (
        archive(folder / "cifar-100-python.tar.gz", python_files(), "cifar-100-python").parent
    ),
    "binary": lambda folder: save(folder, binary_files()),
    "binary in its folder": lambda folder: save(folder / "cifar-100-binary", binary_files()).parent,
    "binary archive": lambda folder: archive(folder / "any.tar.gz", binary_files(), "cifar-100-binary"),
    "binary archive in a folder": lambda folder: (
        archive(folder / "cifar-100-binary.tar.gz", binary_files(), "cifar-100-binary").parent
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, form: str) -> None:
    before = FORMS[form](tmp_path)
    written = sorted(tmp_path.rglob("*"))
    images = read_cifar100(before, "train")
    assert images.images.dtype == torch.uint8
    assert torch.equal(images.images, torch.from_numpy(PIXELS))
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == LABELS
    assert images.classes == CLASSES
    assert sorted(tmp_path.rglob("*")) == written  # nothing is unpacked
    images.images[0] = 0  # nor is it a view of something read-only


def test_the_split_that_was_asked_for(tmp_path: Path) -> None:
    files = binary_files()
    save(tmp_path, files | {"test.bin": files["train.bin"][3074 : 3 * 3074]})
    assert torch.equal(read_cifar100(tmp_path, "test").images, torch.from_numpy(PIXELS[1:3]))


# Faults


def rejected(path: Path, split: Split = "train") -> str:
    with pytest.raises(UserError) as caught:
        read_cifar100(path, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    message = rejected(tmp_path, "test")
    assert message.startswith(f"{tmp_path}: no CIFAR-100 is there; expected test.tar (sheets), cifar-100-python/test, ")
    assert "cifar-100-binary/test.bin, cifar-100-python.tar.gz or cifar-100-binary.tar.gz" in message
    assert rejected(tmp_path / "no").startswith(f"{tmp_path / 'no'}: no such folder or file; expected train.tar ")
    (tmp_path / "file").write_bytes(b"text")
    assert rejected(tmp_path / "file").startswith(f"{tmp_path / 'file'}: is no .tar.gz file or is cut short (")


def test_half_a_version(tmp_path: Path) -> None:
    files = python_files()
    save(tmp_path, {"train": files["train"]})
    assert rejected(tmp_path).startswith(f"{tmp_path}: has 'train' but no 'meta'; expected both")


def member_faults() -> dict[str, tuple[dict[str, bytes], str]]:
    """What is in train.tar, and what is said about it."""
    first, second = SHEETS
    return {
        "foreign member": ({"1.webp": first, "._1.webp": b""}, "holds '._1.webp'; expected only sheets named NUMBER"),
        "twice": ({"1.webp": first, "01.webp": second}, "sheet 1 comes twice; expected each number once"),
        "no picture": ({"1.webp": first, "2.webp": b"RIFF"}, "sheet 2 is no WebP picture or is cut short ("),
        "cut short": ({"1.webp": first[:-1000], "2.webp": second}, "sheet 1 is no WebP picture or is cut short ("),
        "wrong size": ({"1.webp": sheet(PIXELS[:960], 24)}, "sheet 1 has 1280x768 pixels; expected 1280x800: 25 rows"),
    }


@pytest.mark.parametrize("fault", list(member_faults()))
def test_faulty_sheets(tmp_path: Path, fault: str) -> None:
    members, said = member_faults()[fault]
    write_sheets(tmp_path)
    write_tar(tmp_path / "train.tar", members)
    assert rejected(tmp_path).startswith(f"{tmp_path / 'train.tar'}: {said}")


def test_sheets_cut_short(tmp_path: Path) -> None:
    path = write_sheets(tmp_path) / "train.tar"
    path.write_bytes(path.read_bytes()[:-20_000])
    assert rejected(tmp_path).startswith(f"{path}: is no .tar file or is cut short (")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array(LABELS[:-1], np.uint8), "1999 labels for 2000 images; expected one each"),
        (
            np.array([*LABELS[:-1], 100], np.uint8),
            "label 100 of image 1999 is out of range; expected 0 to 99, as there ",
        ),
        (np.array(LABELS), "is of type int64 and shape (2000,); expected a 1-D array of uint8"),
        (np.array(["a"], dtype=object), "is no .npy file or is cut short (Object arrays cannot be loaded"),
        (b"\x93NUMPY", "is no .npy file or is cut short ("),
        (None, "no such file; expected the labels of "),
    ],
    ids=["too few", "out of range", "type", "pickled", "cut short", "missing"],
)
def test_faulty_labels_of_sheets(tmp_path: Path, labels: object, said: str) -> None:
    path = write_sheets(tmp_path) / "train_labels.npy"
    if isinstance(labels, np.ndarray):
        np.save(path, labels)
    elif isinstance(labels, bytes):
        path.write_bytes(labels)
    else:
        path.unlink()
    assert rejected(tmp_path).startswith(f"{path}: {said}")


def test_sheets_without_class_names(tmp_path: Path) -> None:
    (write_sheets(tmp_path) / "classes.txt").unlink()
    assert rejected(tmp_path).startswith(f"{tmp_path / 'classes.txt'}: no such file")


def test_faulty_records(tmp_path: Path) -> None:
    files = binary_files()
    save(tmp_path, files | {"train.bin": files["train.bin"][:-1]})
    path = tmp_path / "train.bin"
    assert rejected(tmp_path).startswith(f"{path}: 6147999 bytes are no whole records of 3074; it is cut short")
    path.write_bytes(bytes([0, 100]) + bytes(3072))
    assert rejected(tmp_path).startswith(f"{path}: label 100 of image 0 is out of range; expected 0 to 99")


def test_an_archive_cut_short(tmp_path: Path) -> None:
    path = archive(tmp_path / "cifar-100-binary.tar.gz", binary_files(), "cifar-100-binary")
    path.write_bytes(path.read_bytes()[:-1000])
    assert rejected(tmp_path).startswith(f"{path}: is no .tar.gz file or is cut short (")


def test_a_fault_inside_an_archive_names_both(tmp_path: Path) -> None:
    files = binary_files() | {"train.bin": b"short"}
    path = archive(tmp_path / "cifar-100-binary.tar.gz", files, "cifar-100-binary")
    assert rejected(tmp_path).startswith(f"{path}/cifar-100-binary/train.bin: 5 bytes are no whole records of 3074")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fine_labels": LABELS[:-1]}, "1999 labels for 2000 images; expected one each"),
        ({"fine_labels": [-1] * COUNT}, "label -1 of image 0 is out of range; expected 0 to 99"),
        ({"fine_labels": [b"1"] * COUNT}, "'fine_labels' is no list of whole numbers"),
        (
            {"data": np.zeros((2, 3073), np.uint8)},
            "'data' is of type uint8 and shape (2, 3073); expected uint8 of shape (n, ",
        ),
        ({"data": [0, 1, 2]}, "'data' is no array of numbers; expected uint8 of shape (n, 3072)"),
    ],
    ids=["too few", "out of range", "no numbers", "width", "no array"],
)
def test_faulty_python_files(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    save(tmp_path, python_files(**changes))  # type: ignore[arg-type]
    assert rejected(tmp_path).startswith(f"{tmp_path / 'train'}: {said}")


def test_python_files_of_something_else(tmp_path: Path) -> None:
    files = python_files()
    path = save(tmp_path, files | {"train": pickled({b"labels": [1]}) + b"."}) / "train"
    assert rejected(tmp_path).startswith(f"{path}: holds no 'data'; expected a file of the archive cifar-100-python")
    path.write_bytes(files["train"][:-100])
    assert rejected(tmp_path).startswith(f"{path}: is no pickle of CIFAR-100 or is cut short (")
    save(tmp_path, files | {"meta": pickled({b"fine_label_names": [3]}) + b"."})
    assert rejected(tmp_path).startswith(f"{tmp_path / 'meta'}: 'fine_label_names' is no list of names")


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        ("posix.system", b"cposix\nsystem\n(X\x0a\x00\x00\x00touch ownedtR."),
        ("__builtin__.eval", b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR."),
        ("numpy.load", b"cnumpy\nload\n."),
        ("numpy.ndarray.dump", b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93."),  # protocol 4 follows dots
    ],
)
def test_what_could_run_code_is_refused(
    tmp_path: Path, name: str, opcodes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path, python_files() | {"train": opcodes})
    assert rejected(tmp_path).startswith(f"{tmp_path / 'train'}: asks for {name!r}, which no CIFAR-100 file needs")
    assert not (tmp_path / "owned").exists()


# What is made of them


def test_hold_out() -> None:
    whole = ImageSet(
        torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).repeat(1, 3, 2, 2), torch.arange(50), CLASSES
    )
    kept, held = hold_out(whole, 0.3, seed=4)
    assert (len(kept), len(held)) == (35, 15)
    assert sorted(kept.labels.tolist() + held.labels.tolist()) == list(range(50))
    for part in (kept, held):
        assert part.labels.tolist() == sorted(part.labels.tolist())
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert part.classes == CLASSES
    assert torch.equal(held.labels, hold_out(whole, 0.3, seed=4)[1].labels)
    assert not torch.equal(held.labels, hold_out(whole, 0.3, seed=5)[1].labels)
    everything, nothing = hold_out(whole, 0, seed=4)
    assert torch.equal(everything.labels, whole.labels)
    assert nothing.images.shape == (0, 3, 2, 2)
    with pytest.raises(ValueError, match="fraction=1"):
        hold_out(whole, 1, seed=0)


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert (train.images.shape, test.images.shape) == ((1300, 3, 8, 8), (497, 3, 8, 8))
    assert train.images.dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert torch.equal(train.images[:, 0], train.images[:, 2])
    assert train.labels[:10].tolist() == list(range(10))
    assert int(test.labels.bincount(minlength=10).min()) > 40
    # The images go with their labels: the nearest mean of a class says what most test digits are.
    means = torch.stack([train.images[train.labels == label].float().mean(0).flatten() for label in range(10)])
    nearest = torch.cdist(test.images.float().flatten(1), means).argmin(1)
    assert float((nearest == test.labels).float().mean()) > 0.8


def test_the_real_test_sheets(data_root: Path) -> None:
    test = read_cifar100(data_root / "cifar100", "test")
    assert test.images.shape == (10_000, 3, 32, 32)
    assert test.labels.bincount().tolist() == [100] * 100
    assert (test.classes[0], test.classes[99], len(set(test.classes))) == ("apple", "worm", 100)
    # Neighbouring pixels are alike, as in any photograph, so tiles were cut where they end: about 0.13, not 2.
    pixels = test.images[::50].double()
    for steps in (pixels.diff(dim=2), pixels.diff(dim=3)):
        assert float(steps.square().mean()) < 0.2 * float(pixels.var())


@pytest.mark.slow
def test_the_real_sheets_are_in_order(data_root: Path) -> None:
    train, test = (read_cifar100(data_root / "cifar100", split) for split in ("train", "test"))
    assert train.images.shape == (50_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [500] * 100
    # Images go with labels: the mean image of a class is nearest to the same one of the other split. It is in 88 of
    # 100 classes; with every sheet one place late in none.
    means = torch.stack(
        [
            torch.stack([part.images[part.labels == label].float().mean(0).flatten() for label in range(100)])
            for part in (test, train)
        ]
    )
    assert int((torch.cdist(means[0], means[1]).argmin(1) == torch.arange(100)).sum()) > 80
