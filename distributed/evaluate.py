"""Scores a run, an export, or a plain baseline, always beside what a user would otherwise do.

    python -m distributed.evaluate RUN [--split test] [--checkpoint last] [key=value ...]
    python -m distributed.evaluate RUN --beam 8 --page PAGE.html
    python -m distributed.evaluate RECIPE model.name=ridge

RUN is a run's folder or URI, of which the best checkpoint is scored, or a recipe whose run has been trained. Prints a
table and writes it to RUN/evaluation-SPLIT.json: of alignment, video accuracy and text IoU (percent, mean over movies);
of other tasks their own scores. Of alignment alone: --beam, --page, and an export with --recipe naming the data.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distributed import checkpoint, fetch
from distributed.command import main_of
from distributed.config import BaselineConfig, Recipe
from distributed.exported import Export, checkpoint_of, export_of, read_export
from distributed.pages.alignment import write_alignment_page
from distributed.recipe_file import load_recipe
from distributed.tasks import task_of_run
from models.baselines import ALIGNERS
from models.baselines.ridge_search import RidgeSearch, captions_used
from models.data.alignment_set import SPLITS, load_examples
from models.data.examples import Example
from models.data.files import atomic_path
from models.data.movie import Alignment
from models.data.sentences import MINILM, embed_texts
from models.errors import UserError
from models.metrics.retrieval import ranks, retrieval_scores
from models.neumatch.certainty import confidences
from models.neumatch.decoding import DecodingConfig, align
from models.neumatch.metrics import Score, score
from models.neumatch.oracle import oracle_alignment
from models.tasks.task import Task
from models.tasks.video_language import VideoLanguageTask
from models.tasks.video_text import VideoTextTask

ORACLE, NEUMATCH = "oracle (ceiling of the clips)", "NeuMATCH"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    score: Score
    alignments: list[Alignment]
    seconds: float
    """Of aligning the split, fitting apart."""


def decode(export: Export, examples: Sequence[Example], decoding: DecodingConfig) -> Row:
    """Aligns and scores a split with a trained network."""
    network = export.network()
    prepared = [export.preprocessors.apply(example) for example in examples]
    began = time.perf_counter()
    alignments = align(network, prepared, decoding)
    seconds = time.perf_counter() - began
    return Row(score([e.movie for e in examples], alignments), alignments, seconds)


def baseline(name: str, train: Sequence[Example], examples: Sequence[Example]) -> Row:
    """Fits a plain aligner on the training split, then aligns and scores `examples`."""
    aligner = ALIGNERS[name]()
    aligner.fit(train)
    began = time.perf_counter()
    alignments = [aligner.align(example) for example in examples]
    seconds = time.perf_counter() - began
    return Row(score([e.movie for e in examples], alignments), alignments, seconds)


def oracle(examples: Sequence[Example]) -> Row:
    """What the best assignment of these clips can reach."""
    alignments = [oracle_alignment(example.movie) for example in examples]
    return Row(score([e.movie for e in examples], alignments), alignments, 0.0)


def table(rows: Mapping[str, Row], split: str, movies: int) -> str:
    """The rows as Markdown."""
    lines = [f"| {split}, {movies} movies | video accuracy % | text IoU % | decoding s |", "|---|---|---|---|"]
    for name, row in rows.items():
        seconds = f"{row.seconds:.2f}" if row.seconds else ""
        lines.append(f"| {name} | {row.score.video_accuracy:.1f} | {row.score.text_iou:.1f} | {seconds} |")
    return "\n".join(lines)


def _recipe_of(where: Path, named: Path | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run's folder, that of --recipe for an export, or the recipe itself."""
    if (where / "recipe.yaml").is_file():
        return load_recipe(where / "recipe.yaml", overrides, Recipe)
    if (where / "config.json").is_file():
        if named is None:
            raise UserError(f"{where} is an export, which holds no data: name a recipe with --recipe")
        return load_recipe(named, overrides, Recipe)
    if where.is_dir():
        raise UserError(f"{where}: neither a run (recipe.yaml) nor an export (config.json)")
    return load_recipe(where, overrides, Recipe)


def _export_of(where: Path, recipe: Recipe, which: str) -> Export | None:
    """The network to score, of alignment; None: a baseline alone."""
    if (where / "recipe.yaml").is_file():
        return export_of(where, which)
    if where.is_dir():
        return read_export(where)
    if isinstance(recipe.model, BaselineConfig):
        return None
    return export_of(_run_of(recipe, where, which), which)


def _run_of(recipe: Recipe, where: Path, which: str) -> Path:
    """Where the run of a recipe is, which is named `where`."""
    run = fetch.view(recipe.place, which)
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: not trained yet; run `python -m distributed.train {where}` first")
    return run


def _check_options(options: argparse.Namespace, task: str, where: Path) -> None:
    """Refuses what is of alignment alone."""
    if options.recipe is not None or (where.is_dir() and not (where / "recipe.yaml").is_file()):
        raise UserError(f"{where}: exports of {task} are not scored; score the run that it was made from")
    given = {"--beam": options.beam, "--page": options.page, "--movie": options.movie}
    for name, value in given.items():
        if value:
            raise UserError(f"{name} is of alignment; this run's task is {task}: leave it out")


def evaluate(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m distributed.evaluate", description="Score a run beside baselines.")
    parser.add_argument("where", help="a run's folder or URI, an export, or a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", type=Path, help="with an export: the recipe whose data is scored")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--beam", type=int, metavar="WIDTH", action="append", default=[], help="also beam search")
    parser.add_argument("--length-penalty", type=float, default=0.0, help="of beam search, 0..1")
    parser.add_argument("--baselines", default="all", help="all, none, or names: " + ", ".join(ALIGNERS))
    parser.add_argument("--page", type=Path, help="write an HTML page of one movie's alignments")
    parser.add_argument("--movie", help="the movie on the page (default: the first of the split)")
    options = parser.parse_intermixed_args(arguments)
    names = {"all": list(ALIGNERS), "none": []}.get(options.baselines, options.baselines.split(","))
    if unknown := [name for name in names if name not in ALIGNERS]:
        raise UserError(f"--baselines: no baseline {unknown[0]!r}; there are {', '.join(ALIGNERS)}")
    where = fetch.view(options.where, options.checkpoint)
    recipe = _recipe_of(where, options.recipe, options.overrides)
    if recipe.task != "alignment":
        _check_options(options, recipe.task, where)
        run = where if where.is_dir() else _run_of(recipe, where, options.checkpoint)
        # Where the run is now, which need not be where it was trained.
        here = recipe.model_copy(update={"storage": run.absolute().parent, "name": run.absolute().name})
        target = score_task(here, options.split, options.checkpoint, options.baselines != "none", options.overrides)
        fetch.publish(options.where if where.is_dir() else str(recipe.place), target)
        return
    export = _export_of(where, recipe, options.checkpoint)
    examples = load_examples(recipe.data, recipe.cache)
    chosen = examples[options.split]
    if not chosen:
        raise UserError(f"the {options.split} split of {recipe.data.annotations} is empty")
    movie = _movie_number(chosen, options.movie)
    rows: dict[str, Row] = {}
    if export is not None:
        rows[f"{NEUMATCH}, greedy"] = decode(export, chosen, DecodingConfig())
        for width in options.beam:
            beam = DecodingConfig(method="beam", width=width, length_penalty=options.length_penalty)
            rows[f"{NEUMATCH}, beam {width}"] = decode(export, chosen, beam)
    elif isinstance(recipe.model, BaselineConfig):
        names = [recipe.model.name, *(name for name in names if name != recipe.model.name)]
    for name in names:
        rows[name.replace("_", " ")] = baseline(name, examples["train"], chosen)
    rows[ORACLE] = oracle(chosen)
    print(table(rows, options.split, len(chosen)))
    if export is not None and (where / "recipe.yaml").is_file():
        target = where / f"evaluation-{options.split}.json"
        figures = {
            name: {"video_accuracy": r.score.video_accuracy, "text_iou": r.score.text_iou} for name, r in rows.items()
        }
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps({"about": export.about, "rows": figures}, indent=1) + "\n")
        fetch.publish(options.where, target)
    if options.page:
        sure = {name: row for name, row in rows.items() if name.startswith(NEUMATCH)}
        write_page(options.page, chosen, movie, rows, recipe, _certainty(export, chosen[movie], movie, sure))
        print(f"page: {options.page.absolute()}")


def scores_of(task: Task, chosen: checkpoint.Checkpoint, split: str) -> dict[str, float]:
    """What a checkpoint scores on a split.

    Raises:
        UserError: the split is empty.
    """
    network = task.network()
    network.load_state_dict(checkpoint.whole_weights(chosen))
    scores = task.scores(task.score_sums(network, split, 0, 1), split)
    if not scores:
        raise UserError(f"the {split} split is empty")
    return scores


def score_task(recipe: Recipe, split: str, which: str, baselines: bool, overrides: Sequence[str]) -> Path:
    """Prints a run's scores on a split beside those of plain methods, and writes them to a file in its folder, whose
    path it returns. `overrides`: how the recipe was changed, to be told there."""
    chosen, task = checkpoint_of(recipe.folder, which), task_of_run(recipe)
    scores = scores_of(task, chosen, split)
    rows = {recipe.name: scores}
    if baselines and isinstance(task, VideoTextTask) and task.kind == "retrieval":
        rows |= _ridge_search(task, split, recipe.cache)
    if baselines and isinstance(task, VideoLanguageTask):
        rows |= task.plain(split)
    lines = [f"| {split}, step {chosen.step} | {' | '.join(scores)} |", "|---" * (1 + len(scores)) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[key]:.2f}' if key in row else '' for key in scores)} |")
    print("\n".join(lines))
    target = recipe.folder / f"evaluation-{split}.json"
    with atomic_path(target) as temporary:
        about = {"step": chosen.step, "checkpoint": which, "overrides": list(overrides)}
        temporary.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return target


def _ridge_search(task: VideoTextTask, name: str, cache: Path) -> dict[str, dict[str, float]]:
    """Its row; none where there is no sentence encoder, which is said."""
    split, captions = task.splits[name], captions_used(task.train)
    texts = [caption.text for caption in (*captions, *split.queries)]
    try:
        embeddings = embed_texts(texts, MINILM, cache)
    except UserError as error:
        print(f"no ridge baseline: {error}", file=sys.stderr)
        return {}
    search = RidgeSearch(task.train.frames, captions, embeddings[: len(captions)])
    found = ranks(
        search.scores(embeddings[len(captions) :], split.frames), torch.tensor([q.video for q in split.queries])
    )
    return {"ridge (mean frame, MiniLM)": retrieval_scores(found)}


def _movie_number(examples: Sequence[Example], wanted: str | None) -> int:
    ids = [example.movie.id for example in examples]
    if wanted is None:
        return 0
    if wanted not in ids:
        raise UserError(f"--movie: no movie {wanted!r} in this split; there are {', '.join(ids)}")
    return ids.index(wanted)


def _certainty(
    export: Export | None, example: Example, number: int, rows: Mapping[str, Row]
) -> dict[str, tuple[float, ...]]:
    """How sure the network is of each of its rows, clip by clip of one movie."""
    if export is None or not rows:
        return {}
    prepared, network = export.preprocessors.apply(example), export.network()
    found = confidences(network, [prepared] * len(rows), [row.alignments[number] for row in rows.values()])
    return dict(zip(rows, found, strict=True))


def write_page(
    path: Path,
    examples: Sequence[Example],
    number: int,
    rows: Mapping[str, Row],
    recipe: Recipe,
    sure: Mapping[str, Sequence[float]],
) -> None:
    """Writes the page of one movie: gold, what each row makes of it, and how sure the network is (`sure`, by row)."""
    movie = examples[number].movie
    gold = {"gold": oracle_alignment(movie)}
    predicted = {name: row.alignments[number] for name, row in rows.items() if name != ORACLE}
    write_alignment_page(
        path,
        movie,
        {**gold, **predicted},
        title=f"Movie {movie.id}",
        figures={name: rows[name].score for name in predicted},
        confidences=sure,
        note=f"Run {recipe.name}. The set: {len(examples)} movies of the same split.",
    )


if __name__ == "__main__":
    main_of(evaluate)
