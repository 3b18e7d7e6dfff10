"""The command that draws a learned loss: all figures, a page that needs nothing else, and one line for a mistake."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distributed.checkpoint import FORMAT, LEARNED, MANIFEST, folder_of
from distributed.config import Recipe
from distributed.inspect import inspect, read_learned
from distributed.metrics_file import MetricsFile
from distributed.pages.learned_loss import FIGURES, embeddings, marginals, ranges, surfaces
from distributed.pages.pictures import render
from models.errors import UserError
from models.meltr.bilevel import LearnedLoss
from models.meltr.config import MELTRConfig
from models.meltr.transformer import LossTransformerConfig, unified_and_coefficients
from tests.support.learned_runs import digits_recipe
from tests.support.trainers import new_trainer
from tests.support.workers import on_workers

# Names that HTML, mathematical typesetting and legends could each take for something else; the first is primary.
NAMES = (
    '<img src="https://evil.example/x" onerror=alert(1)> & {{title}} <b>long</b>',
    "$\\frac{a$",
    "_hidden",
    "d&amp;",
)
STEP = 6


def _config(form: Any = "transformer") -> MELTRConfig:
    return MELTRConfig(network=LossTransformerConfig(form=form, width=8, feed_forward=8, value_hidden=8, heads=2))


def _write_manifest(folder: Path, **entries: Any) -> None:
    """A manifest that fits the files that are there."""
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    facts = {p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in files}
    progress = {"step": int(folder.name.removeprefix("step-"))}
    manifest = {"format": FORMAT, "progress": progress, "files": facts, "parameters": {}, "recipe": {}, **entries}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _write_metrics(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    (run / "metrics.jsonl").unlink(missing_ok=True)
    file = MetricsFile(run / "metrics.jsonl", resume_step=STEP)
    for record in records:
        file.append(record)
    file.close()


def _write_run(run: Path, names: Sequence[str] = NAMES, form: str = "transformer") -> LearnedLoss:
    """A run of two epochs as its checkpoint and figures say; the loss network is not trained."""
    learned = LearnedLoss(_config(form), names, names[0], seed=2)
    folder = folder_of(run, STEP)
    folder.mkdir(parents=True)
    save_file({name: tensor.clone() for name, tensor in learned.state().items()}, folder / LEARNED)
    entry = {"names": list(names), "primary": names[0], "config": learned.config.model_dump(mode="json")}
    _write_manifest(folder, learned_loss=entry)
    records: list[dict[str, Any]] = []
    for step in range(1, STEP + 1):
        record: dict[str, Any] = {"step": step, "time": 0.5, "unified": 1.0}
        for t, name in enumerate(names):
            record |= {f"loss/{name}": 1 + t + 0.1 * step, f"coefficient/{name}": 1 - 0.125 * t * step}
        if step % 3 == 0:
            record["epoch"] = step // 3
        records.append(record)
    records[1][f"loss/{names[0]}"] = "NaN"
    _write_metrics(run, records)
    return learned


class _Page(HTMLParser):
    """Tags with their attributes, and all text outside of style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of name, drawn."""
    run = tmp_path_factory.mktemp("runs") / "a run"
    _write_run(run)
    inspect([str(run)])
    return run


@pytest.fixture(scope="module")
def html_text(run: Path) -> str:
    return (run / "inspect" / "index.html").read_text(encoding="utf-8")


def test_every_figure_is_there_in_both_kinds_and_on_the_page(run: Path, html_text: str) -> None:
    names = [figure.__name__ for figure in FIGURES]
    found = sorted(path.name for path in (run / "inspect").iterdir())
    assert found == sorted([f"{name}.{kind}" for name in names for kind in ("png", "svg")] + ["index.html"])
    page = _Page(html_text)
    shown = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in page.all("img")]
    assert shown == [(run / "inspect" / f"{name}.png").read_bytes() for name in names]
    assert all(image.startswith(b"\x89PNG") for image in shown)
    assert all((run / "inspect" / f"{name}.svg").read_text().count("</svg>") == 1 for name in names)
    dark = page.all("source")
    assert [source["media"] for source in dark] == ["(prefers-color-scheme: dark)"] * len(names)
    assert not {source["srcset"] for source in dark} & {image["src"] for image in page.all("img")}


def test_every_figure_is_told_in_words(html_text: str) -> None:
    page = _Page(html_text)
    alts = [image["alt"] or "" for image in page.all("img")]
    assert len(set(alts)) == len(FIGURES)
    assert min(len(alt) for alt in alts) > 40
    assert len(page.all("figcaption")) == len(FIGURES)
    for figure in ("Figures 3 and 7", "Figure 3", "Figure 4", "Figure 5", "Figure 6"):
        assert f"Corresponds to {figure} of the paper" in page.text
    assert "Figures that are not finite are left out: 1." in page.text
    assert "it is a constant" in page.text


def test_names_stay_text(html_text: str) -> None:
    page = _Page(html_text)
    assert len(page.all("img")) == len(FIGURES)
    assert not page.all("b")
    assert not page.all("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(name in page.text for name in NAMES)
    assert NAMES[0] in (page.all("img")[0]["alt"] or "")
    assert "{{" not in html_text.replace("{{title}} &lt;b", "")


def test_nothing_comes_from_outside(html_text: str) -> None:
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html_text).replace("https://evil.example", "")
    assert not re.search(r"https?://|@import|url\(", plain)
    page = _Page(html_text)
    links = [value or "" for _, a in page.tags for name, value in a.items() if name in {"src", "href", "srcset"}]
    assert all(link.startswith("data:") for link in links)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'")
    assert any(a.get("name") == "viewport" for a in page.all("meta"))


def test_the_table_has_the_figures_of_the_run(html_text: str) -> None:
    rows = re.findall(r'<tr><th scope="row">.*?</th>(.*?)</tr>', html_text)
    cells = [re.findall("<td>(.*?)</td>", row) for row in rows]
    assert cells[0] == ["1.38", "1.1", "1.6", "1", "1"]  # the mean of 1.1, 1.3, 1.4, 1.5 and 1.6
    assert cells[2] == ["3.35", "3.1", "3.6", "0.5", "-0.25"]


def test_the_network_is_the_checkpoint_s(tmp_path: Path) -> None:
    learned = _write_run(tmp_path / "run")
    found = read_learned(tmp_path / "run")
    losses = torch.rand(3, len(NAMES))
    assert torch.equal(found.network(losses), learned.network(losses))
    assert (found.names, found.primary, found.step) == (NAMES, 0, STEP)


def _train(recipe: Recipe, steps: int) -> list[dict[str, float]]:
    """On a worker: the figures of each step of a run, which ends with a checkpoint."""
    trainer = new_trainer(recipe)
    figures = []
    while trainer.state.step < steps:
        trainer.train_step()
        figures.append({"step": trainer.state.step, **trainer.figures})
    trainer.save()
    return figures


def test_a_trained_run_is_read_as_its_figures_say(tmp_path: Path) -> None:
    recipe = digits_recipe(tmp_path)
    records = on_workers(1, _train, recipe, 3)[0]
    _write_metrics(recipe.folder, records)
    learned = read_learned(recipe.folder)
    at = torch.tensor([records[-1][f"loss/{name}"] for name in learned.names])
    unified, coefficients = unified_and_coefficients(learned.network, at)
    assert float(unified) == pytest.approx(records[-1]["unified"], rel=1e-5)
    assert coefficients.tolist() == pytest.approx(
        [records[-1][f"coefficient/{name}"] for name in learned.names], rel=1e-4
    )
    assert learned.names[learned.primary] == "classification"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_run_gives_the_same_file(run: Path, kind: Any) -> None:
    picture = ranges(read_learned(run))
    assert render(picture, kind, "light") == render(picture, kind, "light")
    assert render(picture, kind, "light") != render(picture, kind, "dark")


@pytest.mark.parametrize("form", ["linear", "value_only", "task_only"])
def test_a_network_of_one_embedding_has_no_figure_of_two(tmp_path: Path, form: str) -> None:
    _write_run(tmp_path, ["a", "b"], form)
    why = embeddings(read_learned(tmp_path))
    assert isinstance(why, str)
    assert f"of form {form}" in why


def test_one_linear_loss_is_drawn_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_run(tmp_path / "run", ["only"], "linear")
    inspect([str(tmp_path / "run"), "--to", str(tmp_path / "there")])
    assert not (tmp_path / "run" / "inspect").exists()
    page = _Page((tmp_path / "there" / "index.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 3
    assert "one loss only" in page.text
    assert str((tmp_path / "there" / "index.html").absolute()) in capsys.readouterr().out


def test_ten_losses_of_very_different_sizes_are_drawn(tmp_path: Path) -> None:
    names = [f"loss {t}" for t in range(10)]
    _write_run(tmp_path, names)
    figures = {f"loss/{name}": 10.0 ** (t - 4) for t, name in enumerate(names[:-1])} | {"loss/loss 9": -2.5}
    _write_metrics(tmp_path, [{"step": 1, **figures, **{f"coefficient/{name}": 1 for name in names}}])
    learned = read_learned(tmp_path)
    assert learned.values(2).tolist() == [-3, 10000]
    for picture in (marginals(learned), ranges(learned)):
        assert render(picture, "png", "dark").startswith(b"\x89PNG")
    assert not isinstance(surfaces(learned), str)


def _tensors(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    """Changes the file of a run's loss network and keeps the manifest true to it."""

    def apply(run: Path) -> None:
        folder = folder_of(run, STEP)
        entry = json.loads((folder / MANIFEST).read_text())["learned_loss"]
        save_file(change(load_file(folder / LEARNED)), folder / LEARNED)
        _write_manifest(folder, learned_loss=entry)

    return apply


def _entry(**changes: Any) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        folder = folder_of(run, STEP)
        entry = json.loads((folder / MANIFEST).read_text())["learned_loss"]
        _write_manifest(folder, learned_loss={**entry, **changes})

    return apply


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no learned loss": (lambda run: _write_manifest(folder_of(run, STEP)), "combiner.name=meltr"),
    "no checkpoint": (lambda run: (folder_of(run, STEP) / MANIFEST).unlink(), "no complete checkpoint"),
    "damaged file": (lambda run: (folder_of(run, STEP) / LEARNED).write_bytes(b"x"), "truncated or changed"),
    "no tensors": (_tensors(lambda tensors: {"other": torch.zeros(1)}), "damaged learned loss .*Missing key"),
    "not finite": (_tensors(lambda tensors: {k: t * torch.nan for k, t in tensors.items()}), "not finite"),
    "other sizes": (_tensors(lambda tensors: {k: t.flatten()[:1] for k, t in tensors.items()}), "size mismatch"),
    "no primary": (_entry(primary="else"), "damaged learned loss"),
    "no names": (_entry(names=None), "damaged learned loss"),
    "wrong configuration": (_entry(config={"gamma": -1}), "damaged learned loss .*gamma"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl: cannot be read"),
    "no figures": (lambda run: _write_metrics(run, [{"step": 1, "loss": 2.0}]), "metrics.jsonl: .*training.log_every"),
    "no finite loss": (
        lambda run: _write_metrics(run, [{"step": 1, "loss/a": 1, "loss/b": "NaN", "coefficient/a": 1}]),
        "metrics.jsonl: no finite figure loss/b",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path, mistake: str) -> None:
    _write_run(tmp_path, ["a", "b"])
    apply, message = MISTAKES[mistake]
    apply(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        inspect([str(tmp_path)])
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert not (tmp_path / "inspect").exists()


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a run"):
        inspect([str(tmp_path / "nowhere")])
