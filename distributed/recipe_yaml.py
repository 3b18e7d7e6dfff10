"""YAML 1.2 core schema for recipes: plain values, the line of every key, and errors that are one line each."""

import re
from typing import Any, NoReturn

import yaml

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of mappings and positions in lists."""

_TAG = "tag:yaml.org,2002:"
# Unlike in YAML 1.1, `1e-3` is a number, `yes` and `12:30` are text and `010` is ten.
_CORE_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class YamlError(ValueError):
    """What is wrong, and on which line of the text (counted from 1)."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Without aliases a file is as large as it looks and cannot contain itself.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            _refuse("aliases (*name) are not supported; write the value out", event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        if any(character in scalar for character in "\x85\u2028\u2029"):
            # These are line breaks to YAML, and PyYAML folds them into others unless they are escaped.
            analysis.allow_single_quoted = analysis.allow_flow_plain = analysis.allow_block_plain = False
        return analysis


_Loader.yaml_implicit_resolvers = {}  # the inherited ones are those of YAML 1.1
for _name, _pattern in _CORE_SCALARS.items():
    # The dumper keeps its YAML 1.1 rules too, so that it quotes whatever a reader of either version would convert.
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def parse_yaml(text: str) -> tuple[Any, dict[KeyPath, int]]:
    """The plain value of a YAML text (None, bool, int, float, str, list, dict with str keys) and each key's line.

    Raises YamlError, also for duplicate keys, aliases and tags beyond the core ones.
    """
    lines: dict[KeyPath, int] = {(): 1}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else _plain(node, (), lines)), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(mark.line + 1 if mark else 1, " ".join(problem.split())) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"the character {error.character!r} is not allowed in YAML") from None
    except RecursionError:
        raise YamlError(1, "nested too deeply") from None


def dump_yaml(values: Any) -> str:
    """YAML of plain values in their order; `parse_yaml` gives them back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dotted(path: KeyPath) -> str:
    """The way a key is written on the command line and in messages."""
    return ".".join(map(str, path))


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_plain(item, (*path, index), lines))
        return items
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                _refuse("a key must be a name", key_node.start_mark)
            place = (*path, _text(key_node))
            if place in lines:
                _refuse(
                    f"duplicate key '{dotted(place)}' (it stands on line {lines[place]} already)", key_node.start_mark
                )
            lines[place] = key_node.start_mark.line + 1
            mapping[_text(key_node)] = _plain(value_node, place, lines)
        return mapping
    _refuse(f"the tag {node.tag!r} is not supported", node.start_mark)


def _scalar(node: yaml.ScalarNode) -> Any:
    text, kind = _text(node), node.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    # An explicit tag (`!!int x`) can stand before any text, so the text is checked again.
    if kind not in _CORE_SCALARS or not re.fullmatch(_CORE_SCALARS[kind], text):
        _refuse(f"the tag {node.tag!r} does not go with {text[:40]!r}", node.start_mark)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(re.sub(r"\.(?=[inIN])", "", text))
    if len(text) > 1000:
        _refuse("a whole number of more than 1000 digits is not supported", node.start_mark)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _text(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        _refuse("half of a surrogate pair is not text", node.start_mark)
    return text


def _refuse(problem: str, at: yaml.error.Mark | None) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, at)
