"""Draws what a run's learned loss does with its losses: the figures of CVPR 2023 (MELTR), on one page.

    python -m distributed.inspect RUN [--to FOLDER]

RUN is the folder or URI of a run with combiner.name=meltr; its newest checkpoint and its metrics.jsonl are read. Writes
every figure as PNG and SVG, and index.html, one file that needs no other, to RUN/inspect.
"""

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from distributed import checkpoint, fetch
from distributed.command import main_of
from distributed.metrics_file import read_metrics
from distributed.pages.learned_loss import FIGURES, Learned
from distributed.pages.pictures import render, section, write_filled
from models.data.files import atomic_path
from models.errors import UserError
from models.meltr.config import MELTRConfig
from models.meltr.introspection import by_epoch
from models.meltr.transformer import loss_network

PREFIX = "phi/"
_TEMPLATE = Path(__file__).parent / "pages" / "learned_loss.html"


def read_learned(run: Path) -> Learned:
    """The learned loss of a run's newest checkpoint.

    Raises:
        UserError: there is none, the run learned no loss, or its files are damaged.
    """
    newest = checkpoint.newest(run)
    if newest is None:
        raise UserError(f"{run}: no complete checkpoint there; expected the folder of a run")
    try:
        tensors, entry = checkpoint.load_learned(newest), newest.manifest["learned_loss"]
        names = tuple(str(name) for name in entry["names"])
        primary = names.index(entry["primary"])
        config = MELTRConfig.model_validate_json(json.dumps(entry["config"]))
        network = loss_network(config.network, len(names), seed=0)
        phi = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        network.load_state_dict(phi)
        if not all(bool(p.isfinite().all()) for p in network.parameters()):
            raise ValueError("a weight of the loss network is not finite")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{newest.folder}: damaged learned loss ({problem}); delete the folder to fall back to an older checkpoint"
        ) from error
    path = run / "metrics.jsonl"
    records = read_metrics(path)
    try:
        losses, coefficients = (by_epoch(records, names, prefix) for prefix in ("loss", "coefficient"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for t, name in enumerate(names):
        if not losses.count[:, t].any():
            raise UserError(f"{path}: no finite figure loss/{name}; the figures hold every loss at its mean")
    return Learned(run.absolute().name, newest.step, names, primary, config, network.eval(), losses, coefficients)


def write_page(path: Path, learned: Learned, sections: Sequence[str]) -> None:
    """Writes the page to `path`, whole or not at all; `sections` are HTML."""
    network = learned.config.network
    sizes = "" if network.form == "linear" else f", {network.width} wide"
    slots = {
        "title": html.escape(f"The learned loss of {learned.run}"),
        "note": html.escape(
            f"After {learned.step} steps: a loss network of form {network.form}{sizes}, over {len(learned.names)} "
            f"losses, of which {learned.names[learned.primary]} is the primary one. It moves after every "
            f"{learned.config.inner_steps} steps of the backbone; gamma is {learned.config.gamma:g}."
        ),
        "rows": "\n".join(_row(learned, t) for t in range(len(learned.names))),
        "sections": "\n".join(sections),
    }
    write_filled(path, _TEMPLATE, slots)


def _row(learned: Learned, t: int) -> str:
    mean, low, high = (float(figures[t]) for figures in learned.losses.overall())
    coefficients = learned.coefficients.mean[:, t]
    cells = [f"{x:.3g}" for x in (mean, low, high, float(coefficients[0]), float(coefficients[-1]))]
    name = html.escape(learned.names[t]) + (" (primary)" if t == learned.primary else "")
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def inspect(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.inspect", description="Draw a run's learned loss.")
    parser.add_argument("run", help="the run's folder, e.g. runs/NAME, or its URI")
    parser.add_argument("--to", type=Path, help="where to write (default: RUN/inspect)")
    options = parser.parse_args(arguments)
    run = fetch.view(options.run, "last")
    learned = read_learned(run)
    target = options.to or run / "inspect"
    sections = []
    for figure in FIGURES:
        picture = figure(learned)
        if isinstance(picture, str):
            sections.append(f"<p>{html.escape(picture)}</p>")
            print(picture, flush=True)
            continue
        light = render(picture, "png", "light")
        for kind, image in (("png", light), ("svg", render(picture, "svg", "light"))):
            with atomic_path(target / f"{picture.name}.{kind}") as temporary:
                temporary.write_bytes(image)
        remark = f"Corresponds to {picture.paper} of the paper; also in {picture.name}.png and {picture.name}.svg."
        sections.append(section(picture, light, render(picture, "png", "dark"), remark))
        print(f"drew {target / picture.name}.png and .svg", flush=True)
    write_page(target / "index.html", learned, sections)
    if options.to is None:
        fetch.publish(options.run, *sorted(target.iterdir()))
    print(f"page: {(target / 'index.html').absolute()}")


if __name__ == "__main__":
    main_of(inspect)
