"""Checks an object of a YAML file against the types of Kubernetes' API, strictly: unknown fields are faults."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes.client

QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
"""A number with an SI or binary suffix, or an exponent. `Ki` is spelt with a capital, `k` without."""
QUANTITIES = {("V1ResourceRequirements", "limits"), ("V1ResourceRequirements", "requests")}
QUANTITIES |= {("V1VolumeResourceRequirements", "limits"), ("V1VolumeResourceRequirements", "requests")}
EXTENDED = re.compile(r"nvidia\.com/gpu|cpu|memory|ephemeral-storage|storage|hugepages-\d+[KMG]i")
"""The resources that our files may ask for: Kubernetes itself takes any name, and would wait for it for ever."""
PRIMITIVES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "object": object,
    "datetime": str,
    "bytes": str,
}


def faults(kind: str, value: Any, path: str = "") -> Iterator[str]:
    """What is wrong with `value` as a `kind`, such as `V1PodTemplateSpec` or `List[V1Container]`: path and fault."""
    if inner := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: a list is needed"
            return
        for number, item in enumerate(value):
            yield from faults(inner[1], item, f"{path}[{number}]")
    elif inner := re.fullmatch(r"[Dd]ict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            yield f"{path}: a mapping is needed"
            return
        for key, item in value.items():
            yield from faults(inner[1], item, f"{path}.{key}")
    elif kind in PRIMITIVES:
        wrong_flag = isinstance(value, bool) and kind not in ("bool", "object")
        if wrong_flag or not isinstance(value, PRIMITIVES[kind]):
            yield f"{path}: {kind} is needed, not {value!r}"
    elif kind == "quantity":
        if not QUANTITY.fullmatch(str(value)):
            yield f"{path}: {value!r} is no quantity"
    else:
        yield from _faults_of_model(kind, value, path)


def _faults_of_model(kind: str, value: Any, path: str) -> Iterator[str]:
    model = getattr(kubernetes.client, kind)
    if not isinstance(value, dict):
        yield f"{path}: a mapping is needed"
        return
    attributes = {field: attribute for attribute, field in model.attribute_map.items()}
    for field, item in value.items():
        here = f"{path}.{field}"
        if field not in attributes:
            yield f"{here}: {kind} has no such field"
        elif (kind, field) in QUANTITIES:
            yield from _faults_of_quantities(item, here)
        else:
            yield from faults(model.openapi_types[attributes[field]], item, here)
    for attribute, field in model.attribute_map.items():
        if field not in value and _required(model, attribute):
            yield f"{path}: {kind} needs {field}"


def _required(model: Any, attribute: str) -> bool:
    """Whether a model refuses to be without an attribute."""
    empty = model.__new__(model)
    empty.local_vars_configuration = kubernetes.client.Configuration()
    try:
        setattr(empty, attribute, None)
    except ValueError:
        return True
    return False


def _faults_of_quantities(value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: a mapping is needed"
        return
    for name, amount in value.items():
        if not EXTENDED.fullmatch(name):
            yield f"{path}.{name}: no resource of this name"
        yield from faults("quantity", amount, f"{path}.{name}")
