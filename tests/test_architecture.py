"""The rules of the house, checked on the syntax tree of every file: one-way imports, no unpickling, small files."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
MAX_TEST_LINES = 550  # a long table of cases is still one thing to read
TOP_LEVEL = {"pyproject.toml", "README.md", "Makefile", "constraints.txt", "LICENSE", ".ci", ".gitignore", ".rayignore"}
TOP_LEVEL |= {"distributed", "models", "tuning", "cluster", "tests"}
FORBIDDEN_IMPORTS = {
    "models": {"distributed", "tuning", "cluster", "tests", "ray", "deepspeed", "wandb", "torch.distributed"},
    "distributed": {"tuning", "cluster", "tests"},
    "tuning": {"cluster", "tests"},
    "cluster": {"distributed", "models", "tuning", "tests"},
}
UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader", "yaml.CBaseLoader"}
UNSAFE_YAML = {f"yaml.{kind}Loader" for kind in ("", "C", "Full", "CFull", "Unsafe", "CUnsafe")} | {
    f"yaml.{kind}_load{every}" for kind in ("full", "unsafe") for every in ("", "_all")
}
YAML_LOADS = {"yaml.load", "yaml.load_all"}
TORCH_LOADS = {"torch.load", "torch.serialization.load"}
IMPORT_CALLS = {"importlib.import_module", "__import__"}
CATCH_ALL = {"Exception", "BaseException"}


# What a file says, read off its syntax tree.


def aliases(tree: ast.AST) -> dict[str, str]:
    """The dotted name that each imported name stands for: `import numpy as np` gives `{"np": "numpy"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                top = item.name.partition(".")[0]
                names[item.asname or top] = item.name if item.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for item in node.names:
                names[item.asname or item.name] = f"{node.module}.{item.name}"
    return names


def dotted(node: ast.AST | None, names: dict[str, str]) -> str:
    """The dotted name that an expression spells out, through `names`; empty if it is anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def uses(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every module that a file in `package` imports, by statement, call or attribute."""
    names = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, item.name) for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import climbs one package a dot after the first.
            climbed = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(climbed if node.level else []), *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{item.name}") for item in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func, names) in IMPORT_CALLS and node.args:
            if isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)
        elif isinstance(node, ast.Attribute) and dotted(node, names) == "torch.distributed":
            yield node.lineno, "torch.distributed"


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == name), None)


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


# The checks: each takes a tree and yields the line and the fault.


def wrong_imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Imports that break the one-way rule, for a file in `package`."""
    top = package.partition(".")[0]
    for line, module in uses(tree, package):
        for banned in FORBIDDEN_IMPORTS.get(top, set()):
            if module == banned or module.startswith(f"{banned}."):
                yield line, f"{top} must not import {banned}"


def unsafe_loading(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Everything that could run code out of a file that came from elsewhere."""
    names = aliases(tree)
    for line, module in uses(tree, ""):
        if found := UNPICKLERS.intersection(module.split(".")):
            yield line, f"{found.pop()} runs code from files"
    safe_loaders = set(SAFE_LOADERS)
    for node in ast.walk(tree):
        # A loader of one's own is as safe as its base; ast.walk meets a base's definition before its subclass's.
        if isinstance(node, ast.ClassDef) and any(dotted(base, names) in safe_loaders for base in node.bases):
            safe_loaders.add(node.name)
    called: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called.add(id(node.func))
            yield from _unsafe_call(node, dotted(node.func, names), safe_loaders, names)
        elif isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node, names)
            if name in UNSAFE_YAML:
                yield node.lineno, f"{name} runs code from files; use yaml.safe_load"
            elif name.endswith(".read_pickle"):
                yield node.lineno, f"{name} runs code from files"
            elif name in TORCH_LOADS | YAML_LOADS and id(node) not in called:
                yield node.lineno, f"{name} passed on cannot be seen to be safe; call it"


def _unsafe_call(call: ast.Call, name: str, safe_loaders: set[str], names: dict[str, str]) -> Iterator[tuple[int, str]]:
    if name in TORCH_LOADS and not is_constant(keyword(call, "weights_only"), True):
        yield call.lineno, "torch.load needs weights_only=True"
    hidden = any(item.arg is None for item in call.keywords)
    if name == "numpy.load" and (len(call.args) > 2 or hidden):
        yield call.lineno, "np.load hides allow_pickle; give it by name"
    allow_pickle = keyword(call, "allow_pickle")
    if allow_pickle is not None and not is_constant(allow_pickle, False):
        yield call.lineno, "allow_pickle must be False"
    if name in YAML_LOADS:
        loader = keyword(call, "Loader") or (call.args[1] if len(call.args) > 1 else None)
        if dotted(loader, names) not in safe_loaders:
            yield call.lineno, f"{name} needs a SafeLoader"


def silenced_errors(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Handlers that catch everything and do nothing about it."""
    names = aliases(tree)

    def catches_all(kind: ast.expr | None) -> bool:
        kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
        return any(item is None or dotted(item, names) in CATCH_ALL for item in kinds)

    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler | ast.Call):
            continue
        if isinstance(node, ast.ExceptHandler):
            idle = all(isinstance(line, ast.Pass) or _is_literal(line) for line in node.body)
            silent = idle and catches_all(node.type)
        else:
            suppresses = dotted(node.func, names) == "contextlib.suppress"
            silent = suppresses and any(catches_all(kind) for kind in node.args)
        if silent:
            yield node.lineno, "an error of any kind is swallowed"


def _is_literal(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def missing_docstring(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """A module that does not say on its first line what it is for."""
    first = tree.body[0] if tree.body else None
    if not (ast.get_docstring(tree) and first is not None and first.lineno == 1):
        yield 1, "the first line must be a docstring"


# The files they are applied to.


def project_files() -> list[Path]:
    """What git tracks or would track, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files belong to the project")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted(path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file())


def package_of(path: Path) -> str:
    return ".".join(path.parent.parts)


def read_modules() -> list[tuple[Path, ast.Module]]:
    paths = [path for path in project_files() if path.suffix == ".py"]
    return [(path, ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))) for path in paths]


def report(path: Path, faults: Iterator[tuple[int, str]]) -> list[str]:
    return [f"{path}:{line}: {fault}" for line, fault in faults]


def test_top_level_holds_what_the_readme_says() -> None:
    assert {path.parts[0] for path in project_files()} - TOP_LEVEL == set()


def test_imports_run_one_way() -> None:
    assert [
        fault for path, tree in read_modules() for fault in report(path, wrong_imports(tree, package_of(path)))
    ] == []


RESTRICTED_UNPICKLERS = {Path("models/data/unpickling.py")}
"""Official archives come as pickles. These files read them with an unpickler that looks no name up."""


def test_nothing_is_unpickled() -> None:
    faults = []
    for path, tree in read_modules():
        restricted = path in RESTRICTED_UNPICKLERS and unpicklers_are_restricted(tree)
        faults += [f for f in report(path, unsafe_loading(tree)) if not (restricted and "pickle runs code" in f)]
    assert faults == []


def unpicklers_are_restricted(tree: ast.Module) -> bool:
    """Of pickle only `Unpickler` is imported, and only as the base of classes with a `find_class` of their own."""
    imported = [
        a.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pickle"
        for a in node.names
    ]
    whole = any(a.name == "pickle" for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = [base for node in classes for base in node.bases if isinstance(base, ast.Name) and base.id == "Unpickler"]
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Unpickler"]
    derived = [node for node in classes if any(base in node.bases for base in bases)]
    own = all(any(isinstance(f, ast.FunctionDef) and f.name == "find_class" for f in node.body) for node in derived)
    return imported == ["Unpickler"] and not whole and bool(derived) and len(uses) == len(bases) and own


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "from pickle import Unpickler\nUnpickler(file).load()",
        "from pickle import Unpickler\nclass Open(Unpickler):\n    pass",
    ],
)
def test_an_open_unpickler_is_found(text: str) -> None:
    assert not unpicklers_are_restricted(ast.parse(text))


def test_no_error_is_swallowed() -> None:
    assert [fault for path, tree in read_modules() for fault in report(path, silenced_errors(tree))] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [fault for path, tree in read_modules() for fault in report(path, missing_docstring(tree))] == []


def test_no_file_is_long() -> None:
    python = [path for path in project_files() if path.suffix == ".py"]
    lengths = {path: (ROOT / path).read_bytes().count(b"\n") for path in python}
    allowed = {path: MAX_TEST_LINES if path.parts[0] == "tests" else MAX_LINES for path in python}
    assert {str(path): lines for path, lines in lengths.items() if lines > allowed[path]} == {}


# The checks themselves can fail.


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("models.optim", "import ray"),
        ("models", "from ray import train"),
        ("models", "def f():\n    import deepspeed.comm as dist"),
        ("models", "import wandb as w"),
        ("models", "from distributed.engine import Engine"),
        ("models", "from torch import distributed as dist"),
        ("models", "import torch.distributed.nn"),
        ("models", "import torch\ntorch.distributed.barrier()"),
        ("models", "import importlib\nimportlib.import_module('ray.data')"),
        ("models.data", "from ...tuning import sweep"),
        ("distributed", "from tuning import sweep"),
        ("distributed", "import cluster"),
        ("tuning", "from cluster.submit import main"),
        ("cluster", "import distributed.config"),
        ("cluster", "if TYPE_CHECKING:\n    from models import errors"),
        ("cluster", "from tests.helpers import thing"),
    ],
)
def test_wrong_import_is_found(package: str, source: str) -> None:
    # `from ...tuning` in models.data names the top-level package beside models.
    assert list(wrong_imports(ast.parse(source), package))


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("models.data", "from . import movie\nfrom ..errors import UserError\nimport torch.nn.functional as F"),
        ("models", "import rayleigh\nfrom torch.distributions import Normal"),
        ("distributed", "import torch.distributed, ray, models.errors"),
        ("tuning", "from distributed import config"),
        ("tests.models", "import ray, models, distributed, tuning, cluster"),
    ],
)
def test_right_import_is_let_through(package: str, source: str) -> None:
    assert list(wrong_imports(ast.parse(source), package)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "from ray import cloudpickle",
        "import dill, json",
        "from joblib import load",
        "import marshal",
        "import shelve as s",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "from torch import load\nload(path)",
        "import torch\nread = torch.load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, None, True)",
        "import numpy as np\nnp.load(path, **options)",
        "from numpy import load\nload(path, allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle(path)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.load_all(text, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import full_load\nfull_load(text)",
        "import yaml\nclass Mine(yaml.UnsafeLoader): pass\nyaml.load(text, Loader=Mine)",
    ],
)
def test_unsafe_loading_is_found(source: str) -> None:
    assert list(unsafe_loading(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, mmap_mode='r', allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Mine(yaml.SafeLoader): pass\nyaml.load(text, Mine)",
        "import json\njson.load(file)",
    ],
)
def test_safe_loading_is_let_through(source: str) -> None:
    assert list(unsafe_loading(ast.parse(source))) == []


@pytest.mark.parametrize(
    "source",
    [
        "try: f()\nexcept: pass",
        "try: f()\nexcept Exception: pass",
        "try: f()\nexcept (ValueError, BaseException) as error: ...",
        "import contextlib\nwith contextlib.suppress(Exception): f()",
    ],
)
def test_swallowed_error_is_found(source: str) -> None:
    assert list(silenced_errors(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "try: f()\nexcept OSError: pass",
        "try: f()\nexcept Exception: log()",
        "from contextlib import suppress\nwith suppress(KeyError): f()",
    ],
)
def test_handled_error_is_let_through(source: str) -> None:
    assert list(silenced_errors(ast.parse(source))) == []


@pytest.mark.parametrize(("source", "faults"), [('"""Says it."""', 0), ("", 1), ("x = 1", 1), ('\n"""Late."""', 1)])
def test_docstring_on_first_line(source: str, faults: int) -> None:
    assert len(list(missing_docstring(ast.parse(source)))) == faults
