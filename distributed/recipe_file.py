"""Strict loading of a YAML recipe into its typed configuration; every mistake is one line that says where it stands."""

import difflib
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from distributed.recipe_yaml import KeyPath, YamlError, dotted, dump_yaml, parse_yaml
from distributed.storage import place, without_secrets
from models.config import StrictConfig
from models.errors import UserError

T = TypeVar("T", bound=StrictConfig)


def _no_uri(path: Path) -> Path:
    try:
        place(str(path))  # Path has made one slash of two
    except ValueError:
        raise ValueError("expected a folder or a file; of all keys only a run's storage may be a URI") from None
    return path


PathField = Annotated[Path, Field(strict=False), AfterValidator(_no_uri)]
"""The type of a path in a schema: text is accepted too, from a recipe and from Python."""

RECIPES = Path(__file__).parent / "recipes"

_COMMAND_LINE = 0  # the line number of whatever an override set
_EXPECTED: dict[Any, str] = {float: "a number", int: "a whole number", str: "text", bool: "true or false", Path: "text"}
_EXPECTED |= {list: "a list", tuple: "a list", set: "a list", frozenset: "a list", dict: "a mapping"}


def load_recipe(path: Path, overrides: Sequence[str], schema: type[T], folder: Path | None = None) -> T:
    """Reads a recipe, applies `dotted.key=value` overrides in their order (the last one wins) and checks everything.

    `path` is a file, or the bare name of a file in `folder` (default: distributed/recipes). Values are YAML 1.2; a part
    of a dotted key may be a position in a list. Raises UserError with one line for whatever is wrong with the file or
    an override.
    """
    file = find_recipe(path, folder)
    try:
        values, lines = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    except YamlError as error:
        raise UserError(f"{_place(file, error.line)}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}:1: expected {_expected(schema)}; found {_shown(values)}")
    for override in overrides:
        _apply(override, values, lines, file)
    if isinstance(variant := getattr(schema, "variant", None), types.MethodType):  # one class a kind of recipe
        schema = variant(values)
    try:
        # JSON is how pydantic's strict mode takes lists for tuples, text for paths and integers for floats.
        return schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(_explain(error, schema, values, lines, file)) from error


def find_recipe(path: Path, folder: Path | None = None) -> Path:
    """The file that `path` means: itself, or FOLDER/NAME.yaml for a bare NAME. Raises UserError."""
    bare = len(path.parts) == 1 and path.suffix not in (".yaml", ".yml")
    file = (folder or RECIPES) / f"{path}.yaml" if bare else path
    if file.is_file():
        return file
    present = sorted(found.stem if bare else found.name for found in file.parent.glob("*.y*ml"))
    listed = f"there are: {', '.join(present)}" if present else "there is nothing beside it"
    raise UserError(f"{file}: no such file{_nearest(path.name, present) or ';'} {listed}")


def dump_recipe(model: BaseModel) -> str:
    """The whole configuration, defaults included, as YAML that loads back to an equal model."""
    return dump_yaml(model.model_dump(mode="json", by_alias=True))


def recipe_hash(model: BaseModel) -> str:
    """12 hexadecimal digits (sha256 of canonical JSON): the same for equal models on every machine.

    A field that is a set has no order and would make it vary: use tuples.
    """
    values = model.model_dump(mode="json", by_alias=True)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _apply(override: str, values: dict[str, Any], lines: dict[KeyPath, int], file: Path) -> None:
    key, equals, text = override.partition("=")
    place, parts = _place(file, _COMMAND_LINE), key.split(".")
    if not equals or not all(parts):
        raise UserError(f"{place}: expected dotted.key=value, found {override!r}")
    try:
        value, _ = parse_yaml(text)
    except YamlError as error:
        raise UserError(f"{place}: '{key}': {error}; found {text!r}") from error
    here: Any = values
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        index: str | int = part
        if isinstance(here, list):
            if not (part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(here)):
                allowed = f"allowed: 0 to {len(here) - 1}" if here else "the list is empty"
                raise UserError(f"{place}: '{dotted(path)}' is a list without a position '{part}'; {allowed}")
            index = int(part)
        elif not isinstance(here, dict):
            raise UserError(f"{place}: '{dotted(path)}' is {_shown(here)} and has no key '{part}'")
        path = (*path, index)
        if depth < len(parts) - 1:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
                lines[path] = _COMMAND_LINE
            here = here[index]
    here[index] = value
    for stale in [known for known in lines if known[: len(path)] == path]:
        del lines[stale]
    lines[path] = _COMMAND_LINE


def _explain(
    error: ValidationError, schema: type[BaseModel], values: Any, lines: Mapping[KeyPath, int], file: Path
) -> str:
    """The first mistake in the order of the file, missing keys last: a misspelt key is often why another is missing."""
    mistakes: dict[KeyPath, tuple[bool, int, str]] = {}
    for detail in error.errors(include_url=False):
        path, message = _mistake(detail, schema, values)
        line = next(lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines)
        place = _place(file, line) if path else str(file)
        # The members of a plain union each report the same key.
        mistakes.setdefault(path, (message.startswith("missing"), line, f"{place}: {message}"))
    first = min(mistakes.values(), key=lambda mistake: mistake[:2])[2]
    return first + (f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else "")


def _mistake(detail: ErrorDetails, schema: type[BaseModel], values: Any) -> tuple[KeyPath, str]:
    """The key path of one of pydantic's errors, and what to say about it."""
    path, annotation, owner = _locate(schema, detail["loc"], values)
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    text = " ".join(detail["msg"].split())
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context["discriminator"].strip("'")
        path, found = (*path, tag), context.get("tag")
        annotation = Literal[tuple(v for m in _models(annotation) for v in _literals(_fields(m)[tag].annotation))]
        kind = "missing" if found is None else "literal_error"
    key = f"'{dotted(path)}'"
    if kind == "extra_forbidden":
        allowed = list(_fields(owner))
        nearest = _nearest(str(path[-1]), allowed, path[:-1])
        return path, f"unknown key {key}{nearest or ';'} allowed: {', '.join(allowed) or 'none'}"
    if kind == "missing":
        return path, f"missing key {key}; expected {_expected(annotation)}"
    if kind in ("value_error", "assertion_error"):
        text = " ".join(str(context["error"]).split())
        return path, text if not path or _models(annotation) else f"{key}: {text}; found {_shown(found)}"
    if kind == "literal_error":
        nearest = _nearest(str(found), [str(value) for value in _literals(annotation)])
        return path, f"{key} should be {_expected(annotation)}; found {_shown(found)}{nearest}"
    if kind.endswith("_type"):
        return path, f"{key} should be {_expected(annotation)}; found {_shown(found)}"
    separator = " " if text.startswith("Input ") else ": "
    return path, f"{key}{separator}{text.removeprefix('Input ')}; found {_shown(found)}"


def _locate(schema: type[BaseModel], location: Sequence[str | int], values: Any) -> tuple[KeyPath, Any, Any]:
    """The key path of a pydantic location (which also names members of unions), its type and its owner's type."""
    path: KeyPath = ()
    here: Any = schema  # the type at `path`, narrowed to a member where the location names one
    whole: Any = schema  # the same, not narrowed
    owner: Any = schema
    for part in location:
        members = _members(here)
        if len(members) > 1:
            here = next((member for member in members if _is_member(member, part, values)), Any)
            continue
        if part == "[key]" or (here is Any and isinstance(values, dict) and part not in values):
            continue
        owner = members[0]
        path = (*path, part)
        here = whole = _inside(owner, part)
        if isinstance(values, dict):
            values = values.get(str(part))
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part] if part < len(values) else None
    return path, whole, owner


def _is_member(member: Any, part: str | int, values: Any) -> bool:
    """Whether pydantic's label `part` (a union's tag in the data, or a type's name) stands for this member."""
    tagged = isinstance(values, dict) and any(
        values.get(name) == part and part in _literals(field.annotation) for name, field in _fields(member).items()
    )
    return tagged or getattr(member, "__name__", None) == part


def _inside(owner: Any, part: str | int) -> Any:
    """The type of what stands under a key or position of a value of type `owner`; Any where that is not known."""
    if part in _fields(owner):
        return _fields(owner)[str(part)].annotation
    arguments = [argument for argument in get_args(owner) if argument is not Ellipsis]
    if get_origin(owner) is tuple and isinstance(part, int):
        return arguments[min(part, len(arguments) - 1)]
    return arguments[-1] if get_origin(owner) in (list, dict) else Any


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a type without None; the type alone where it is no union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]


def _fields(annotation: Any) -> dict[str, FieldInfo]:
    """A configuration's fields by the names that a recipe uses; empty for other types."""
    return {f.alias or name: f for model in _models(annotation) for name, f in model.model_fields.items()}


def _literals(annotation: Any) -> list[Any]:
    return [value for member in _members(annotation) if get_origin(member) is Literal for value in get_args(member)]


def _expected(annotation: Any) -> str:
    literals, names = _literals(annotation), []
    if literals:
        names.append(("one of " if len(literals) > 1 else "") + ", ".join(map(_shown, literals)))
    for member in _members(annotation):
        if _models(member):
            names.append(f"a mapping with the keys {', '.join(_fields(member))}")
        elif get_origin(member) is not Literal:
            names.append(_EXPECTED.get(get_origin(member) or member, getattr(member, "__name__", "another value")))
    if type(None) in get_args(annotation):
        names.append("null")
    return " or ".join(dict.fromkeys(names))


def _shown(value: Any) -> str:
    """A value as a recipe would spell it, cut to a length that leaves the message readable."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(name: str, names: Sequence[str], prefix: KeyPath = ()) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{dotted((*prefix, close[0]))}'?" if close else ""


def _place(file: Path, line: int) -> str:
    return f"{file}, on the command line" if line == _COMMAND_LINE else f"{file}:{line}"
