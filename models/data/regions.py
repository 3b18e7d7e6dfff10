"""Regions that a detector (Faster-RCNN on Visual Genome) found in pictures, read from its files, and their features.

Shapes: n pictures, R regions of a picture, f dimensions of a region (2048), d dimensions of a picture's feature.
"""

import base64
import binascii
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.hub import LOAD, loading, locate, one_line
from models.data.lxmert import LxmertVision, is_lxmert
from models.errors import UserError

MEAN = "mean"
SUFFIXES = {".tsv", ".npz"}
PICTURES = {".jpg", ".jpeg", ".png"}
LONGEST_LINE = 64 * 2**20
"""Bytes; 100 regions of 2048 dimensions take about one million."""
_CAFFE = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LXMERT = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes")
_KEYS = {
    "features": ("x", "features"),
    "boxes": ("bbox", "boxes"),
    "width": ("image_w", "img_w"),
    "height": ("image_h", "img_h"),
    "count": ("num_bbox", "num_boxes"),
}


@dataclass(frozen=True, slots=True)
class Regions:
    """What was found in a picture.

    Attributes:
        id: the picture's name, without folder and suffix.
        features: (R, f) float32.
        boxes: (R, 4) float32: left, top, right, bottom in shares of the picture's width and height.
    """

    id: str
    features: NDArray[np.float32]
    boxes: NDArray[np.float32]


def find_regions(place: Path) -> list[Path]:
    """The file, or the .tsv and .npz files below a folder, in order. Raises UserError where there is none."""
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; expected regions in .tsv or .npz files")
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)
    if not files or files[0].suffix not in SUFFIXES:
        raise UserError(f"{place}: holds no regions; expected .tsv or .npz files")
    return files


def read_regions(path: Path) -> Iterator[Regions | UserError]:
    """The pictures of a file one by one; for each that is damaged, what is wrong with it and where.

    * `.tsv`: a picture a line, no header: `image_id image_w image_h num_boxes boxes features` (bottom-up-attention;
      more columns may follow), or the ten columns of LXMERT's, `img_id img_h img_w objects_id objects_conf attrs_id
      attrs_conf num_boxes boxes features`; boxes (pixels) and features are float32 in base64. One line is held at a
      time.
    * `.npz`: one picture, named by the file: `x` or `features` (R, f) or (f, R), `bbox` or `boxes` (R, 4) in pixels
      with `image_w` and `image_h`, perhaps `num_bbox`; or `norm_bb` in shares. Other arrays, pickles among them, are
      not read.
    """
    if path.suffix == ".tsv":
        yield from _lines(path)
        return
    try:
        yield _picture(path)
    except UserError as error:
        yield error


def _lines(path: Path) -> Iterator[Regions | UserError]:
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    yield UserError(f"{path}:{number}: more than {LONGEST_LINE >> 20} MB in a line; is it a .tsv file?")
                    return
                if line.strip():
                    try:
                        yield _line(line.rstrip(b"\r\n").split(b"\t"), f"{path}:{number}")
                    except UserError as error:
                        yield error
    except OSError as error:
        yield UserError(f"{path}: cannot be read beyond line {number} ({error.strerror or error})")


def _line(cells: Sequence[bytes], where: str) -> Regions:
    if len(cells) == len(_LXMERT) + 1:
        names: Sequence[str] = (*_LXMERT, "features")
    elif len(_CAFFE) <= len(cells) < len(_LXMERT):
        names = _CAFFE
    else:
        raise UserError(
            f"{where}: {len(cells)} columns; expected {', '.join(_CAFFE)}, or the ten of LXMERT; cut short?"
        )
    named = dict(zip(names, cells, strict=False))
    values: dict[str, NDArray[Any]] = {}
    for wanted, keys in _KEYS.items():
        key = next(key for key in keys if key in named)
        text = named[key]
        try:
            if wanted in ("features", "boxes"):
                values[wanted] = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
            else:
                values[wanted] = np.array(int(text))
        except (binascii.Error, ValueError):
            what = "float32 numbers in base64" if wanted in ("features", "boxes") else "a whole number"
            raise UserError(f"{where}: {key} {text[:20]!r} is damaged; expected {what}") from None
    count, boxes, features = int(values["count"]), values["boxes"], values["features"]
    if count < 1 or boxes.size != 4 * count or features.size % count or not features.size:
        raise UserError(f"{where}: {count} regions with {boxes.size} numbers in boxes and {features.size} in features")
    values |= {"boxes": boxes.reshape(count, 4), "features": features.reshape(count, -1)}
    return _checked(named[names[0]].decode("utf-8", "replace"), values, where)


def _picture(path: Path) -> Regions:
    values: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            for wanted, keys in _KEYS.items():
                key = next((key for key in keys if key in file), None)
                if key is not None:
                    values[wanted] = file[key]
            if "boxes" not in values and "norm_bb" in file:
                values |= {"boxes": file["norm_bb"][:, :4], "width": np.array(1), "height": np.array(1)}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, IndexError, TypeError) as error:
        raise UserError(f"{path}: is no .npz file of numbers, or is damaged ({one_line(error)})") from None
    for wanted in ("features", "boxes", "width", "height"):
        if wanted not in values:
            raise UserError(f"{path}: holds no {' or '.join(map(repr, _KEYS[wanted]))}; expected a picture's regions")
    features, boxes = values["features"], values["boxes"]
    if features.ndim == boxes.ndim == 2 and features.shape[0] != len(boxes) == features.shape[1]:
        values["features"] = features.T
    return _checked(path.name.removesuffix(".npz"), values, str(path))


def _checked(id: str, values: Mapping[str, NDArray[Any]], where: str) -> Regions:
    """Regions that make sense, boxes in shares. Raises UserError, led by `where`."""
    name = id.replace("\\", "/").rpartition("/")[2]
    name = name.rpartition(".")[0] if Path(name).suffix.lower() in PICTURES else name
    features, boxes, count = values["features"], values["boxes"], values.get("count")
    if features.ndim != 2 or not features.size or boxes.shape != (len(features), 4):
        raise UserError(f"{where}: features {features.shape} and boxes {boxes.shape}; expected (R, f) and (R, 4)")
    if count is not None and int(count) != len(features):
        raise UserError(f"{where}: states {int(count)} regions and holds {len(features)}")
    width, height = float(values["width"]), float(values["height"])
    features = np.array(features, np.float32, order="C")
    if not (width > 0 and height > 0 and np.isfinite(features).all() and np.isfinite(boxes).all()):
        raise UserError(f"{where}: a number is NaN or infinite, or the size ({width:g}x{height:g}) is none")
    shares = np.asarray(boxes / np.array([width, height] * 2), np.float32)
    if shares.min() < -0.02 or shares.max() > 1.02:
        raise UserError(f"{where}: a box reaches out of the picture of {width:g}x{height:g}; are they swapped?")
    return Regions(name, features, shares)


class RegionEncoder(ABC):
    """From the regions of pictures to a feature each, frozen, float32."""

    @abstractmethod
    def encode(self, pictures: Sequence[Regions]) -> Tensor:
        """n pictures with any numbers of regions -> (n, d) on the CPU. Raises UserError for regions of another f."""


def region_encoder(source: str, device: str = "cpu") -> RegionEncoder:
    """MEAN over the regions (NeuMATCH's clip features, f-d), or LXMERT's object-relationship encoder, d = 768.

    `source` is then a local folder or a hub name. Only safetensors weights are read and no code that comes with them
    is run. Raises UserError when it cannot be found, reached or read, or is no LXMERT.
    """
    return _Mean() if source == MEAN else _Lxmert(source, device)


class _Mean(RegionEncoder):
    def encode(self, pictures: Sequence[Regions]) -> Tensor:
        for picture in pictures:
            if picture.features.shape[1] != pictures[0].features.shape[1]:
                raise UserError(f"regions of {picture.id!r} and of {pictures[0].id!r} differ in their dimensions")
        return torch.from_numpy(np.stack([picture.features.mean(0) for picture in pictures]))


class _Lxmert(RegionEncoder):
    """The mean over regions of what the vision layers make of them."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoModel

        folder, self.device = locate(source, "encoder", MEAN), device
        where = f"encoder {source!r} ({folder})"
        with loading(f"{where}: cannot be loaded"):
            model, report = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOAD
            )
        if not is_lxmert(model):
            raise UserError(f"{where}: is no LXMERT; regions are encoded by {MEAN!r} or an LXMERT")
        absent = sorted(
            key for key in report["missing_keys"] if key.startswith(("encoder.visn_fc", "encoder.r_layers"))
        )
        if absent:
            raise UserError(
                f"{where}: no fitting weight for {absent[0]} ({len(absent)} in all); expected a whole model"
            )
        self.layers = LxmertVision(model).eval().requires_grad_(False).to(device)
        self.width_in = int(model.config.visual_feat_dim)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Regions]) -> Tensor:
        for picture in pictures:
            if picture.features.shape[1] != self.width_in:
                raise UserError(
                    f"regions of {picture.id!r} have {picture.features.shape[1]} dimensions; the encoder expects "
                    f"{self.width_in}"
                )
        most = max(len(picture.features) for picture in pictures)
        features, boxes = torch.zeros(len(pictures), most, self.width_in), torch.zeros(len(pictures), most, 4)
        mask = torch.zeros(len(pictures), most)
        for row, picture in enumerate(pictures):
            count = len(picture.features)
            features[row, :count], boxes[row, :count] = (
                torch.from_numpy(picture.features),
                torch.from_numpy(picture.boxes),
            )
            mask[row, :count] = 1
        mask = mask.to(self.device)
        hidden = self.layers(features.to(self.device), boxes.to(self.device), mask)
        means: Tensor = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return means.cpu()
