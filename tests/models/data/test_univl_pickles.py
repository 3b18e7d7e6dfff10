"""UniVL's pickles: what NumPy writes in every protocol reads back, and nothing that could run code does."""

import io
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.frames import FrameStore
from models.data.univl_pickles import convert_captions, convert_features, main
from models.data.unpickling import Kept, load_plain, numbers, values
from models.errors import UserError

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


# A pickle is written here by hand, in the opcodes that NumPy and Python write, as this project never imports a pickler.


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def raw(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def kind(array: Array, core: str) -> bytes:
    code, order = array.dtype.str[1:], array.dtype.str[0]
    code = "O8" if array.dtype.hasobject else code
    size = array.dtype.itemsize if array.dtype.kind in "US" else -1
    state = group(whole(3), text(order), b"N", b"N", b"N", whole(size), whole(-1), whole(0))
    return named("numpy", "dtype") + group(text(code), b"\x89", b"\x88") + b"R" + state + b"b"


def item(value: object, core: str) -> bytes:
    match value:
        case np.generic():
            array = np.array(value)
            return named(f"{core}.multiarray", "scalar") + group(kind(array, core), raw(array.tobytes())) + b"R"
        case str():
            return text(value)
        case int():
            return whole(value)
        case float():
            return b"G" + struct.pack(">d", value)
        case None:
            return b"N"
        case _:
            raise TypeError(type(value))


def array(value: Array, core: str = "numpy.core", protocol: int = 4) -> bytes:
    """What NumPy writes: protocol 5 has the numbers in a buffer, the older ones in the state."""
    shape = group(*map(whole, value.shape))
    if protocol == 5 and not value.dtype.hasobject:
        order = "C" if value.flags.c_contiguous else "F"
        data = value.tobytes("A")
        buffer = b"\x96" + struct.pack("<Q", len(data)) + data
        return named(f"{core}.numeric", "_frombuffer") + group(buffer, kind(value, core), shape, text(order)) + b"R"
    columns_first = b"\x89" if value.flags.c_contiguous else b"\x88"
    if value.dtype.hasobject:
        content = b"](" + b"".join(item(part, core) for part in value.ravel().tolist()) + b"e"
    else:
        content = raw(value.tobytes("A"))
    made = named(f"{core}.multiarray", "_reconstruct")
    made += group(named("numpy", "ndarray"), group(whole(0)), raw(b"b")) + b"R"
    return made + group(whole(1), shape, kind(value, core), columns_first, content) + b"b"


def listed(*parts: bytes) -> bytes:
    return b"](" + b"".join(parts) + b"e"


def dictionary(entries: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def save(path: Path, value: bytes, protocol: int = 4) -> Path:
    path.write_bytes(b"\x80" + bytes([protocol]) + value + b".")
    return path


def load(value: bytes) -> Any:
    return load_plain(io.BytesIO(b"\x80\x05" + value + b"."), Path("f.pickle"), "UniVL")


ARRAYS: dict[str, Array] = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big-endian": np.arange(6).astype(">f4").reshape(3, 2),
    "float16": np.array([[0.5]], np.float16),
    "whole": np.array([1, 2], np.int64),
    "strings": np.array(["a", "ü ß"]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_read_back(name: str, core: str, protocol: int) -> None:
    got = numbers(load(array(ARRAYS[name], core, protocol)))
    assert got.dtype == ARRAYS[name].dtype
    assert got.shape == ARRAYS[name].shape
    assert np.array_equal(got, ARRAYS[name])


@pytest.mark.parametrize("name", ARRAYS)
def test_what_numpy_itself_writes_reads_back(name: str) -> None:
    """A dictionary inside an array of objects is the only one that NumPy writes."""
    written = np.array({"a": ARRAYS[name], "b": np.array(["x", np.float32(0.5)], dtype=object)}, dtype=object).dumps()
    stored = load_plain(io.BytesIO(written), Path("f.pickle"), "UniVL").state[4][0]
    assert np.array_equal(numbers(stored["a"]), ARRAYS[name])
    assert values(stored["b"]) == ["x", 0.5]


def test_lists_of_plain_values() -> None:
    mixed = np.array(["a", 1.5, None, 7, np.float64(2.5), np.int64(3)], dtype=object)
    expected = ["a", 1.5, None, 7, 2.5, 3]
    # tolist() would unwrap NumPy's own scalars, so they are written one by one.
    parts = listed(*(item(part, "numpy.core") for part in mixed))
    written = array(mixed).replace(listed(*(item(part, "numpy.core") for part in mixed.tolist())), parts)
    for stored in (written, parts, b"(" + parts[2:-1] + b"t"):
        assert values(load(stored)) == expected
    assert values(load(array(np.array([0.25, 3])))) == [0.25, 3.0]
    assert values(load(array(np.array(["a", "bc"])))) == ["a", "bc"]
    assert values(load(listed())) == []


# Features


def features(**others: Array) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        "video7": random.standard_normal((4, 3)).astype(np.float32),
        "file": random.standard_normal((1, 3)).astype(np.float32),  # the name of an argument of numpy.savez
        **others,
    }


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_features_become_a_frame_store(tmp_path: Path, suffix: str, protocol: int) -> None:
    stored = features(double=np.array([[0.1, 2, 3]]), empty=np.zeros((0, 3), np.float32))
    stored["swapped"] = stored["video7"].astype(">f4")
    source = save(tmp_path / "f.pickle", dictionary({id: array(v, protocol=protocol) for id, v in stored.items()}), 5)
    assert convert_features(source, tmp_path / f"f{suffix}") == ["empty"]
    store = FrameStore(tmp_path / f"f{suffix}", 3)
    assert set(store.lengths) == set(stored) - {"empty"}
    for id in store.lengths:
        assert np.array_equal(store.read([id])[0].numpy(), stored[id].astype(np.float32))


FAULTS: dict[str, tuple[bytes, str]] = {
    "list": (listed(whole(1)), "is no dictionary by video id; expected a pickle of UniVL"),
    "nothing": (b"}", "is no dictionary by video id"),
    "keys": (b"}(" + whole(7) + array(np.ones((1, 3))) + b"u", "has the key 7; expected video ids"),
    "no array": (dictionary({"a": listed(whole(1))}), "the value of 'a' is no array of numbers; expected features"),
    "one axis": (dictionary({"a": array(np.ones(3))}), "'a' is float64 (3,); expected features (F, D)"),
    "strings": (dictionary({"a": array(np.array([["x"]]))}), "'a' is <U1 (1, 1); expected features (F, D)"),
    "width": (
        dictionary({"a": array(np.ones((1, 3))), "b": array(np.ones((1, 4)))}),
        "features of 'b' have 4 dimensions; expected 3",
    ),
    "NaN": (dictionary({"a": array(np.full((1, 3), np.nan))}), "a feature of 'a' is NaN or infinite"),
    "too large": (dictionary({"a": array(np.full((1, 3), 1e300))}), "a feature of 'a' is NaN or infinite"),
    "no frames": (dictionary({"a": array(np.zeros((0, 3)))}), "no video has frames"),
    "cut short": (dictionary({"a": array(np.ones((1, 3)))})[:-20], "is no pickle of UniVL or is cut short ("),
}


def rejected(source: Path, target: str = "f.npz") -> str:
    convert: Callable[[Path, Path], object] = convert_captions if target.endswith(".json") else convert_features
    with pytest.raises(UserError) as caught:
        convert(source, source.parent / target)
    assert "\n" not in str(caught.value)
    assert not (source.parent / target).exists()
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_features(tmp_path: Path, fault: str) -> None:
    stored, said = FAULTS[fault]
    source = save(tmp_path / "f.pickle", stored)
    assert rejected(source).startswith(f"{source}: {said}")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    assert rejected(tmp_path / "f.pickle") == (
        f"{tmp_path / 'f.pickle'}: cannot be read (No such file or directory); expected a pickle of UniVL"
    )
    source = save(tmp_path / "f.pickle", dictionary({"a": array(np.ones((1, 3)))}))
    assert rejected(source, "f.h5").endswith("f.h5: unknown kind of file; expected .safetensors or .npz for features")
    with pytest.raises(UserError, match=r"f\.txt: unknown kind of file; expected \.json for captions"):
        convert_captions(source, tmp_path / "f.txt")


# Captions


def objects(*parts: object) -> bytes:
    return array(np.array(parts, dtype=object))


def test_captions_become_json(tmp_path: Path) -> None:
    entry = {
        "start": objects(0.5, 7),
        "end": array(np.array([6.25, 9.0])),
        "text": objects("cut the ünion", "fry"),
        "transcript": array(np.array(["NONE", "NONE"])),
    }
    source = save(tmp_path / "f.pickle", dictionary({"GLd3": dictionary(entry), "b": dictionary({**entry})}), 3)
    convert_captions(source, tmp_path / "f.json")
    expected = {
        "start": [0.5, 7],
        "end": [6.25, 9.0],
        "text": ["cut the ünion", "fry"],
        "transcript": ["NONE", "NONE"],
    }
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8")) == {"GLd3": expected, "b": expected}


ENTRY = {"start": objects(0.5), "end": objects(1.5), "text": objects("a")}
CAPTION_FAULTS: dict[str, tuple[bytes, str]] = {
    "array": (dictionary({"a": array(np.ones(3))}), "'a' is no dictionary; expected 'start', 'end' and 'text'"),
    "no text": (dictionary({"a": dictionary({"start": objects(0.5), "end": objects(1)})}), "'a' has no 'text'"),
    "lengths": (dictionary({"a": dictionary({**ENTRY, "end": objects(1, 2)})}), "the lists of 'a' differ in length"),
    "two axes": (
        dictionary({"a": dictionary({**ENTRY, "end": array(np.ones((1, 2)))})}),
        "'end' of 'a' is an array of shape (1, 2) instead of one dimension; expected a plain list",
    ),
    "nested": (
        dictionary({"a": dictionary({**ENTRY, "text": listed(listed(text("a")))})}),
        "'text' of 'a' holds a list; expected plain strings and numbers; expected a plain list",
    ),
    "NaN": (dictionary({"a": dictionary({**ENTRY, "end": objects(float("nan"))})}), "cannot be written as JSON ("),
    "half a character": (
        dictionary({"a": dictionary({**ENTRY, "text": objects("\ud83d")})}),
        "cannot be written as JSON (",
    ),
}


@pytest.mark.parametrize("fault", CAPTION_FAULTS)
def test_faulty_captions(tmp_path: Path, fault: str) -> None:
    stored, said = CAPTION_FAULTS[fault]
    source = save(tmp_path / "f.pickle", stored)
    assert rejected(source, "f.json").startswith(f"{source}: {said}")


# What could run code, or trick NumPy into reading memory

CALL = named("posix", "system") + group(text("touch owned")) + b"R"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a shell": (CALL, "asks for 'posix.system', which no UniVL file needs and which may run code"),
    "eval": (named("builtins", "eval") + group(text("1")) + b"R", "asks for 'builtins.eval'"),
    "in an array of objects": (
        dictionary({"a": array(np.array(["x"], object)).replace(listed(text("x")), listed(CALL))}),
        "asks for 'posix.system'",
    ),
    "another class for an array": (
        named("numpy.core.multiarray", "_reconstruct")
        + group(named("os", "system"), group(whole(0)), raw(b"b"))
        + b"R",
        "asks for 'os.system'",
    ),
    "numpy's own loader": (named("numpy", "load") + group(text("x")) + b"R", "asks for 'numpy.load'"),
    "by a dotted name": (b"\x8c\x05numpy\x8c\x0cndarray.dump\x93", "asks for 'numpy.ndarray.dump'"),
    "an import": (named("importlib", "import_module") + group(text("os")) + b"R", "asks for 'importlib.import_module'"),
    "an object": (b"(ios\nsystem\n", "asks for 'os.system'"),
    "a persistent id": (b"Pa\n", "is no pickle of UniVL or is cut short ("),
    "an extension": (b"\x82\x01", "is no pickle of UniVL or is cut short ("),
    "state for a class": (named("numpy", "ndarray") + b"}b", "is no pickle of UniVL or is cut short ("),
    "state for a function": (
        named("_codecs", "encode") + b"N}(" + text("__call__") + whole(1) + b"u\x86b",
        "is no pickle of UniVL or is cut short (a function is given a state)",
    ),
    "a codec": (named("_codecs", "encode") + group(text("x"), text("rot13")) + b"R", "is no pickle of UniVL or is cut"),
}


@pytest.mark.parametrize("target", ["f.npz", "f.json"])
@pytest.mark.parametrize("trick", HOSTILE)
def test_what_could_run_code_is_refused(
    tmp_path: Path, trick: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored, said = HOSTILE[trick]
    source = save(tmp_path / "f.pickle", stored)
    assert rejected(source, target).startswith(f"{source}: {said}")
    assert not (tmp_path / "owned").exists()


PLAIN = array(np.ones((2, 3)))
TRICKS: dict[str, tuple[bytes, str]] = {
    "pointers": (PLAIN.replace(text("f8"), text("O8")), "is an array of type '<O8' instead of numbers"),
    "records": (PLAIN.replace(text("f8"), text("V8")), "is an array of type '<V8' instead of numbers"),
    "no such type": (PLAIN.replace(text("f8"), text("f1")), "is an array of type '<f1' instead of numbers"),
    "another order": (PLAIN.replace(text("<"), text("x")), "is an array of type 'xf8' instead of numbers"),
    "more than there is": (PLAIN.replace(group(whole(2), whole(3)), group(whole(2), whole(9))), "is an array of shape"),
    "below zero": (PLAIN.replace(group(whole(2), whole(3)), group(whole(-2), whole(-3))), "is an array whose shape is"),
    "no sizes": (PLAIN.replace(group(whole(2), whole(3)), group(text("a"), whole(3))), "is an array whose shape is"),
    "no type": (PLAIN.replace(group(text("f8"), b"\x89", b"\x88"), group()), "is of type NoneType instead of a string"),
    "a bare name": (named("numpy", "dtype"), "is no array of numbers"),
    "never filled": (
        named("numpy.core.multiarray", "_reconstruct") + group(named("numpy", "ndarray")) + b"R",
        "is no array of numbers",
    ),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_arrays_that_lie_are_refused(trick: str) -> None:
    stored, said = TRICKS[trick]
    with pytest.raises(ValueError, match=re.escape(said)):
        numbers(load(stored))


def test_objects_that_lie_are_refused() -> None:
    stored = objects("a", "b")
    for replaced, said in (
        (stored.replace(group(whole(2)), group(whole(3))), "is an array of 3 objects that holds 2"),
        (stored.replace(text("b"), raw(b"\xff")), "'utf-8' codec can't decode"),
        (stored.replace(text("b"), named("numpy", "dtype")), "holds a type; expected plain strings and numbers"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            values(load(replaced))
    number = named("numpy.core.multiarray", "scalar") + group(kind(np.array(1.0), "numpy.core"), raw(b"1234")) + b"R"
    with pytest.raises(ValueError, match="is a number of type float64 in 4 bytes"):
        values(load(listed(number)))


def test_what_stands_in_for_numpy_does_nothing() -> None:
    value = load(PLAIN)
    assert isinstance(value, Kept)
    assert not isinstance(value, np.ndarray)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = features(none=np.zeros((0, 3), np.float32))
    source = save(tmp_path / "f.pickle", dictionary({id: array(value) for id, value in stored.items()}))
    assert main([str(source), str(tmp_path / "f.npz")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'f.npz'}\n"
    assert said.err == "left out 1 videos with zero frames: none, ...\n"
    assert main([str(save(source, CALL)), str(tmp_path / "f.json")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {source}: asks for 'posix.system'")
