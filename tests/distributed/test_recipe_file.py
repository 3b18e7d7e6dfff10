"""Recipes: what loads, what is refused and with which line, and the round trip."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from distributed import recipe_file
from distributed.recipe_file import PathField, dump_recipe, load_recipe, recipe_hash
from distributed.recipe_yaml import dump_yaml, parse_yaml
from models.config import StrictConfig
from models.errors import UserError

ROOT = Path(__file__).parents[2]


class NeuMatch(StrictConfig):
    name: Literal["neumatch"]
    hidden: int = Field(default=300, gt=0)
    widths: tuple[int, ...] = (10, 20)


class Baseline(StrictConfig):
    name: Literal["cdtw", "mwd"]
    window: float
    mode: Literal["neumatch", "other"] = "other"  # a value that is also another member's tag


Model = Annotated[NeuMatch | Baseline, Field(discriminator="name")]


class Optimiser(StrictConfig):
    eta: float
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"] | None = None
    clip: float | Literal["off"] = 1.0

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if max(betas) >= 1:
            raise ValueError("must be below 1")
        return betas

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.schedule == "cosine" and self.eta > 1:
            raise ValueError("a cosine schedule needs eta <= 1")
        return self


class Recipe(StrictConfig):
    model: Model
    optimiser: Optimiser
    data_root: PathField = Path("data")
    plain_path: Path | None = None
    title: str = ""
    steps: int = 10
    resume: bool = False
    extra: tuple[Model, ...] = ()
    maybe: Model | None = None
    weights: dict[str, float] = Field(default={})
    named: dict[str, Optimiser] = Field(default={})
    either: int | Optimiser | list[str] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps == 13:
            raise ValueError("steps 13 is impossible:\nchoose 12")
        return self


GOOD = """\
# header: command, hardware, time
model:
  name: neumatch
  hidden: 64
optimiser:
  eta: 1e-3
data_root: some/where
steps: 5
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(text: str, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return _write


def message(path: Path, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides, Recipe)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.replace(str(path), "r.yaml")


def test_loads_with_types(write: Any) -> None:
    recipe = load_recipe(write(GOOD), [], Recipe)
    assert recipe.model == NeuMatch(name="neumatch", hidden=64)
    assert recipe.optimiser.eta == 1e-3
    assert recipe.data_root == Path("some/where")
    assert recipe.steps == 5


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_byte_order_mark_and_newlines(write: Any, newline: str) -> None:
    assert load_recipe(write("\ufeff" + GOOD.replace("\n", newline)), [], Recipe).steps == 5


@pytest.mark.parametrize(
    ("override", "get", "expected"),
    [
        ("optimiser.eta=1e-3", lambda r: r.optimiser.eta, 1e-3),
        ("optimiser.eta=3", lambda r: r.optimiser.eta, 3.0),
        ("optimiser.eta=1.", lambda r: r.optimiser.eta, 1.0),
        ("optimiser.schedule=null", lambda r: r.optimiser.schedule, None),
        ("optimiser.schedule=cosine", lambda r: r.optimiser.schedule, "cosine"),
        ("optimiser.betas=[0.5, 5e-1]", lambda r: r.optimiser.betas, (0.5, 0.5)),
        ("optimiser.betas.1=0.25", lambda r: r.optimiser.betas, None),
        ("title='1e-3'", lambda r: r.title, "1e-3"),
        ('title="a = b: c"', lambda r: r.title, "a = b: c"),
        ("title=yes", lambda r: r.title, "yes"),
        ("title=12:30:00", lambda r: r.title, "12:30:00"),
        ("title=2024-01-01", lambda r: r.title, "2024-01-01"),
        ("title=1_000", lambda r: r.title, "1_000"),
        ("title=!!str 5", lambda r: r.title, "5"),
        ("steps=010", lambda r: r.steps, 10),
        ("steps=0x10", lambda r: r.steps, 16),
        ("steps=0o17", lambda r: r.steps, 15),
        ("resume=true", lambda r: r.resume, True),
        ("data_root=/abs/x y", lambda r: r.data_root, Path("/abs/x y")),
        ("plain_path=p", lambda r: r.plain_path, Path("p")),
        ("model={name: cdtw, window: 2}", lambda r: r.model, Baseline(name="cdtw", window=2.0)),
        ("weights={a: 1, b: 2e0}", lambda r: r.weights, {"a": 1.0, "b": 2.0}),
        ("weights.a.=1", None, None),
        ("maybe.name=neumatch", lambda r: r.maybe, NeuMatch(name="neumatch")),
        ("either=[a, b]", lambda r: r.either, ["a", "b"]),
    ],
)
def test_override_values(write: Any, override: str, get: Any, expected: Any) -> None:
    path = write(GOOD)
    if get is None or override == "optimiser.betas.1=0.25":
        assert "on the command line" in message(path, [override])
        return
    found = get(load_recipe(path, [override], Recipe))
    assert found == expected
    assert type(found) is type(expected)


def test_overrides_in_lists_and_their_order(write: Any) -> None:
    path = write(GOOD + "extra:\n  - {name: mwd, window: 1}\n")
    recipe = load_recipe(path, ["extra.0.window=2.5", "steps=7", "steps=8"], Recipe)
    assert recipe.extra == (Baseline(name="mwd", window=2.5),)
    assert recipe.steps == 8
    assert "'extra' is a list without a position '1'; allowed: 0 to 0" in message(path, ["extra.1.window=3"])
    assert "'extra' is a list without a position 'x'" in message(path, ["extra.x=3"])


ETA_KEYS = "eta, betas, schedule, clip"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (
            GOOD.replace("eta:", "et:"),
            [],
            f"r.yaml:6: unknown key 'optimiser.et'; did you mean 'optimiser.eta'? allowed: {ETA_KEYS} (and 1 more)",
        ),
        (
            GOOD,
            ["optimiser.et=1"],
            "r.yaml, on the command line: unknown key 'optimiser.et'; did you mean 'optimiser.eta'? "
            f"allowed: {ETA_KEYS}",
        ),
        (GOOD.replace("eta: 1e-3", "eta: '1e-3'"), [], "r.yaml:6: 'optimiser.eta' should be a number; found '1e-3'"),
        (GOOD, ["optimiser.eta=abc"], "r.yaml, on the command line: 'optimiser.eta' should be a number; found 'abc'"),
        (
            GOOD,
            ["optimiser.eta=.nan"],
            "r.yaml, on the command line: 'optimiser.eta' should be a finite number; found NaN",
        ),
        (
            GOOD,
            ["optimiser.eta=1e999"],
            "on the command line: 'optimiser.eta' should be a finite number; found Infinity",
        ),
        (GOOD, ["optimiser.eta=true"], "'optimiser.eta' should be a number; found true"),
        (GOOD, ["steps=1.0"], "'steps' should be a whole number; found 1.0"),
        (GOOD, ["steps='5'"], "'steps' should be a whole number; found '5'"),
        (GOOD, ["resume=yes"], "'resume' should be true or false; found 'yes'"),
        (GOOD, ["resume=1"], "'resume' should be true or false; found 1"),
        (GOOD, ["title=5"], "'title' should be text; found 5"),
        (GOOD, ["data_root=5"], "'data_root' should be text; found 5"),
        (GOOD, ["plain_path=[]"], "'plain_path' should be text or null; found []"),
        (GOOD, ["weights=3"], "'weights' should be a mapping; found 3"),
        (GOOD, ["extra=3"], "'extra' should be a list; found 3"),
        (GOOD, ["weights.a=x"], "'weights.a' should be a number; found 'x'"),
        (GOOD, ["named.a={eta: 1, et: 2}"], "unknown key 'named.a.et'; did you mean 'named.a.eta'?"),
        (
            GOOD,
            ["optimiser.schedule=cosin"],
            "'optimiser.schedule' should be one of 'constant', 'cosine' or null; found 'cosin'; did you mean 'cosine'?",
        ),
        (GOOD, ["model.hidden=0"], "on the command line: 'model.hidden' should be greater than 0; found 0"),
        (GOOD.replace("64", "-1"), [], "r.yaml:4: 'model.hidden' should be greater than 0; found -1"),
        (
            GOOD.replace("name: neumatch", "name: neumach"),
            [],
            "r.yaml:3: 'model.name' should be one of 'neumatch', 'cdtw', 'mwd'; found 'neumach'"
            "; did you mean 'neumatch'?",
        ),
        (
            GOOD.replace("  name: neumatch\n", ""),
            [],
            "r.yaml:2: missing key 'model.name'; expected one of 'neumatch', 'cdtw', 'mwd'",
        ),
        (
            GOOD,
            ["model=5"],
            "'model' should be a mapping with the keys name, hidden, widths"
            " or a mapping with the keys name, window, mode; found 5",
        ),
        (GOOD, ["model.name=cdtw"], "r.yaml:4: unknown key 'model.hidden'; allowed: name, window, mode (and 1 more)"),
        (
            GOOD + "extra:\n - name: mwd\n   windw: 3\n",
            [],
            "r.yaml:11: unknown key 'extra.0.windw'; did you mean 'extra.0.window'?",
        ),
        (GOOD + "extra:\n - name: mwd\n", [], "r.yaml:10: missing key 'extra.0.window'; expected a number"),
        (GOOD + "maybe: {name: cdtw, window: a}\n", [], "r.yaml:9: 'maybe.window' should be a number; found 'a'"),
        (
            GOOD + "maybe: {name: cdtw, window: 1, mode: x}\n",
            [],
            "r.yaml:9: 'maybe.mode' should be one of 'neumatch', 'other'; found 'x'",
        ),
        (
            GOOD.replace("  eta: 1e-3\n", "  betas: [0, 0]\n"),
            [],
            "r.yaml:5: missing key 'optimiser.eta'; expected a number",
        ),
        (
            GOOD.replace("optimiser:\n  eta: 1e-3\n", ""),
            [],
            f"r.yaml:1: missing key 'optimiser'; expected a mapping with the keys {ETA_KEYS}",
        ),
        (GOOD, ["optimiser.betas=[0.1]"], "missing key 'optimiser.betas.1'; expected a number"),
        (GOOD, ["optimiser.betas=[0, 0, 0]"], "'optimiser.betas': Tuple should have at most 2 items"),
        (GOOD, ["optimiser.betas=[0, x]"], "'optimiser.betas.1' should be a number; found 'x'"),
        (GOOD, ["optimiser.betas=[0, 1]"], "on the command line: 'optimiser.betas': must be below 1; found [0, 1]"),
        (GOOD, ["optimiser.clip=on"], "'optimiser.clip' should be 'off' or a number; found 'on'"),
        (
            GOOD,
            ["either=true"],
            f"'either' should be a whole number or a mapping with the keys {ETA_KEYS} or a list; found true",
        ),
        (GOOD, ["either={eta: 1, bets: []}"], "'either"),
        (GOOD, ["steps=13"], "r.yaml: steps 13 is impossible: choose 12"),
        (
            GOOD,
            ["optimiser={eta: 2, schedule: cosine}"],
            "r.yaml, on the command line: a cosine schedule needs eta <= 1",
        ),
        (
            GOOD + "optimizer: {}\nzzzzzz: 1\n",
            [],
            "r.yaml:9: unknown key 'optimizer'; did you mean 'optimiser'? allowed: model,",
        ),
        (GOOD + "zzzzzz: 1\nyyyyyy: 1\n", [], "(and 1 more)"),
        # YAML itself
        (GOOD + "steps: 6\n", [], "r.yaml:9: duplicate key 'steps' (it stands on line 8 already)"),
        (GOOD.replace("  hidden: 64\n", "  hidden: 64\n  hidden: 64\n"), [], "r.yaml:5: duplicate key 'model.hidden'"),
        (GOOD + "a: b: c\n", [], "r.yaml:9: mapping values are not allowed here"),
        (GOOD + "extra: [1,\n", [], "r.yaml:10: "),
        (GOOD + "\ttitle: a\n", [], "r.yaml:9: "),
        (GOOD + "title: &a x\nother: *a\n", [], "r.yaml:10: aliases (*name) are not supported"),
        (GOOD + "extra: &a [*a]\n", [], "r.yaml:9: aliases"),
        (GOOD + "title: !!python/object/apply:os.system [ls]\n", [], "r.yaml:9: the tag"),
        (GOOD + "title: !!python/name:os.system ''\n", [], "r.yaml:9: the tag"),
        (GOOD + "title: !!binary aGVsbG8=\n", [], "r.yaml:9: the tag"),
        (GOOD + "steps2: !!int x\n", [], "r.yaml:9: the tag 'tag:yaml.org,2002:int' does not go with 'x'"),
        (GOOD + "? [a, b]\n: 1\n", [], "r.yaml:9: a key must be a name"),
        (GOOD + 'title: "\\ud800"\n', [], "r.yaml:9: half of a surrogate pair"),
        (GOOD + "title: a\x01b\n", [], "r.yaml:9: the character"),
        (GOOD + f"big: {'9' * 5000}\n", [], "r.yaml:9: a whole number of more than 1000 digits"),
        (GOOD + "---\na: 1\n", [], "r.yaml:9: "),
        ("[" * 5000, [], "nested too deeply"),
        ("", [], "r.yaml:1: expected a mapping with the keys model, optimiser,"),
        ("- 1\n", [], "r.yaml:1: expected a mapping with the keys"),
        # overrides themselves
        (GOOD, ["steps"], "r.yaml, on the command line: expected dotted.key=value, found 'steps'"),
        (GOOD, ["=3"], "expected dotted.key=value, found '=3'"),
        (GOOD, ["a..b=3"], "expected dotted.key=value, found 'a..b=3'"),
        (GOOD, ["steps.x=3"], "r.yaml, on the command line: 'steps' is 5 and has no key 'x'"),
        (GOOD, ["steps=[1,"], "r.yaml, on the command line: 'steps': "),
        (GOOD, ["weights={a: 1, a: 2}"], "on the command line: 'weights': duplicate key 'a'"),
        (GOOD, ["steps=1\n2: 3"], "on the command line"),
    ],
)
def test_mistakes_are_one_line(write: Any, text: str, overrides: list[str], expected: str) -> None:
    found = message(write(text), overrides)
    assert expected in found
    if expected.startswith("r.yaml"):
        assert found.startswith(expected)


def test_long_values_are_cut(write: Any) -> None:
    assert len(message(write(GOOD), [f"steps={'x' * 10_000}"])) < 200


def test_an_override_repairs_the_file(write: Any) -> None:
    assert load_recipe(write(GOOD.replace("64", "-1")), ["model.hidden=3"], Recipe).model == NeuMatch(
        name="neumatch", hidden=3
    )


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"title: \xff\xfe\n")
    assert "cannot be read as UTF-8 text" in message(path)


def test_missing_file_lists_its_neighbours(write: Any, tmp_path: Path) -> None:
    assert "there is nothing beside it" in message(tmp_path / "none.yaml")
    write(GOOD, "neumatch_hm1.yaml")
    write(GOOD, "meltr.yaml")
    text = message(tmp_path / "neumatch_hm.yaml")
    assert "no such file; did you mean 'neumatch_hm1.yaml'?" in text
    assert "there are: meltr.yaml, neumatch_hm1.yaml" in text
    assert "no such file" in message(tmp_path / "nowhere" / "x.yaml")
    assert "no such file" in message(tmp_path)


def test_bare_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recipe_file, "RECIPES", tmp_path)
    (tmp_path / "neumatch_small.yaml").write_text(GOOD)
    (tmp_path / "lr_0.1.yaml").write_text(GOOD)
    assert load_recipe(Path("neumatch_small"), [], Recipe).steps == 5
    assert load_recipe(Path("lr_0.1"), [], Recipe).steps == 5
    with pytest.raises(UserError, match=r"no such file; did you mean 'neumatch_small'\? there are: lr_0.1, neu"):
        load_recipe(Path("neumatch_smal"), [], Recipe)


def test_recipes_folder_is_the_packages() -> None:
    assert recipe_file.RECIPES == ROOT / "distributed" / "recipes"


def test_user_error_from_a_validator_passes(write: Any) -> None:
    class Strict(StrictConfig):
        a: int

        @model_validator(mode="after")
        def _refuse(self) -> Self:
            raise UserError("features.npy: expected 10 rows")

    with pytest.raises(UserError, match=r"^features\.npy: expected 10 rows$"):
        load_recipe(write("a: 1"), [], Strict)


def test_aliased_field(write: Any) -> None:
    class Aliased(StrictConfig):
        lambda_: float = Field(alias="lambda")

    recipe = load_recipe(write("lambda: 2"), [], Aliased)
    assert recipe.lambda_ == 2.0
    assert load_recipe(write(dump_recipe(recipe)), [], Aliased) == recipe
    with pytest.raises(UserError, match="unknown key 'lambd'; did you mean 'lambda'"):
        load_recipe(write("lambd: 2"), [], Aliased)


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
awkward = st.sampled_from(
    ["1e-3", "yes", "null", "~", "", "0o7", "1_000", "12:30", "<<", "=", "# x", "- a", ".inf", "1.", "\x85\ufeff"]
)
models = st.one_of(
    st.builds(NeuMatch, name=st.just("neumatch"), hidden=st.integers(1), widths=st.lists(st.integers()).map(tuple)),
    st.builds(Baseline, name=st.sampled_from(["cdtw", "mwd"]), window=finite),
)
optimisers = st.builds(
    Optimiser,
    eta=st.floats(0, 1),
    betas=st.tuples(st.floats(0, 0.99), st.floats(-1e300, 0.99)),
    schedule=st.sampled_from(["constant", "cosine", None]),
    clip=st.one_of(finite, st.just("off")),
)
recipes = st.builds(
    Recipe,
    model=models,
    optimiser=optimisers,
    data_root=st.sampled_from([Path("a"), Path("/b c/d"), Path("1e-3"), Path("null")]),
    plain_path=st.none() | st.just(Path("x")),
    title=texts | awkward,
    steps=st.integers().filter(lambda steps: steps != 13),
    resume=st.booleans(),
    extra=st.lists(models, max_size=3).map(tuple),
    maybe=st.none() | models,
    weights=st.dictionaries(texts | awkward, finite, max_size=4),
    named=st.dictionaries(texts, optimisers, max_size=2),
    either=st.one_of(st.integers(), optimisers, st.lists(texts | awkward, max_size=3)),
)


@settings(max_examples=150, deadline=None)
@given(recipes)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.mktemp("round") / "r.yaml"
    path.write_bytes(dump_recipe(recipe).encode())
    again = load_recipe(path, [], Recipe)
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | awkward, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_dump_is_read_back_by_this_loader_and_by_yaml_1_1(value: Any) -> None:
    text = dump_yaml(value)
    assert parse_yaml(text)[0] == value
    assert yaml.safe_load(text) == value


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789+-.eExo_:~infaNtrul ")))
def test_plain_scalars_against_python(text: str) -> None:
    """Whatever loads as a number is the number that Python reads from the same text."""
    try:
        value, _ = parse_yaml(f"[{text}]")
    except ValueError:
        return
    for item in value if len(value) == 1 else []:
        if isinstance(item, float) and math.isfinite(item):
            assert item == float(text)
        elif type(item) is int and not text.strip().startswith("0"):
            assert item == int(text)


def test_same_object_twice_is_written_out(tmp_path: Path) -> None:
    shared = Baseline(name="mwd", window=1.0)
    model = Recipe(model=shared, optimiser=Optimiser(eta=1.0), extra=(shared, shared))
    assert "&" not in dump_recipe(model)


def test_hash_is_stable_and_sensitive() -> None:
    recipe = Recipe(model=NeuMatch(name="neumatch"), optimiser=Optimiser(eta=1e-3))
    assert recipe_hash(recipe) == recipe_hash(recipe.model_copy())
    assert len(recipe_hash(recipe)) == 12
    assert recipe_hash(recipe) != recipe_hash(recipe.model_copy(update={"steps": 11}))
    swapped = Recipe(optimiser=Optimiser(eta=1e-3), model=NeuMatch(name="neumatch"), weights={})
    assert recipe_hash(recipe) == recipe_hash(swapped)
    one, two = ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0})
    assert recipe_hash(recipe.model_copy(update={"weights": one})) == recipe_hash(
        recipe.model_copy(update={"weights": two})
    )


def test_hash_is_the_same_in_another_process() -> None:
    code = (
        "from distributed.recipe_file import recipe_hash\n"
        "from models.config import StrictConfig\n"
        "class A(StrictConfig):\n    x: float = 0.1\n    y: dict[str, int] = {'b': 1, 'a': 2}\n"
        "print(recipe_hash(A()))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
