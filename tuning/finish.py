"""The end of a sweep's session: files, pictures, page, the best against the base recipe, and W&B's summary run."""

from typing import TYPE_CHECKING, Any

from distributed.say import warn
from distributed.tracking import open_run
from tuning.config import SweepConfig
from tuning.held_out import SPLITS, scores_of_run
from tuning.page import HeldOut, write_page, write_pictures
from tuning.records import Record, Sweep, best_of
from tuning.results import table_of, write_best, write_csv
from tuning.runner import Runner

if TYPE_CHECKING:
    import wandb


def finish(config: SweepConfig, runner: Runner, over: bool) -> None:
    """Writes everything into the sweep's folder; what earlier sessions wrote is replaced.

    `over`: all trials are; else nothing is scored, and W&B hears nothing yet.
    """
    records = runner.records()
    write_csv(config.folder / "results.csv", records, config.mode)
    best = best_of(records, config.mode)
    if best is None:
        print(f"no trial has a result yet; {config.folder / 'results.csv'} says why")
        return
    recipe = runner.recipe(best.number, best.values)
    write_best(config.folder / "best.yaml", records, config.mode, recipe, config.metric)
    base = records[0] if config.base and records[0].course else None
    scores = held_out(runner, best, base) if over else {}
    if scores:
        print(scores_table(scores))
    print(cost(records))
    sweep = Sweep(
        name=config.name,
        metric=config.metric,
        mode=config.mode,
        records=tuple(records),
        logarithmic=frozenset(key for key, parameter in config.space.items() if parameter.logarithmic),
        baseline=base.number if base is not None else None,
        note=f"Base recipe: {config.recipe}. Searcher: {config.searcher.name}; scheduler: {config.scheduler.name}.",
    )
    write_pictures(config.folder / "plots", sweep)
    page = config.folder / "sweep.html"
    write_page(page, sweep, scores)
    if over:
        _summarise(config, runner, records, scores)
    print(f"results:  {config.folder / 'results.csv'}")
    print(f"best:     python -m distributed.train {config.folder / 'best.yaml'}")
    print(f"page:     file://{page}")


def held_out(runner: Runner, best: Record, base: Record | None) -> HeldOut:
    """What the best checkpoints of the best trial and of the base recipe score on validation and test."""
    found = {}
    for name, record in ((f"best (trial {best.number})", best), ("base recipe", base)):
        if record is not None:
            scores = scores_of_run(runner.recipe(record.number, record.values), "best")
            found[name] = {
                split: {
                    name.removeprefix(f"{split}/"): value for name, value in scores.items() if name.startswith(split)
                }
                for split in SPLITS
            }
    return found


def scores_table(scores: HeldOut) -> str:
    """As Markdown."""
    first = next(iter(scores.values()))
    columns = [(split, name) for split in first for name in first[split]]
    lines = ["| " + " | ".join(["best epoch of", *(f"{split} {name}" for split, name in columns)]) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for trial, found in scores.items():
        cells = [f"{found[split][name]:.2f}" if name in found[split] else "" for split, name in columns]
        lines.append("| " + " | ".join([trial, *cells]) + " |")
    return "\n".join(lines)


def cost(records: list[Record]) -> str:
    """One line: how long trials took, and how much of it was not training."""
    measured = [record for record in records if record.training_seconds]
    seconds = sum(record.seconds for record in measured)
    if not seconds:
        return "no trial has been timed"
    training = sum(record.training_seconds for record in measured)
    each, around = seconds / len(measured), (seconds - training) / len(measured)
    return (
        f"{len(measured)} trials took {each:.0f} s each, {around:.1f} s ({around / each:.0%}) of it around the training"
    )


def _summarise(config: SweepConfig, runner: Runner, records: list[Record], scores: HeldOut) -> None:
    """The sweep's own run in W&B: its configuration, the table of trials, the best."""
    settings = config.model_dump(mode="json")
    try:
        run = open_run(config.folder, runner.base.tracking, f"{config.name}-summary", settings, job_type="sweep")
        if run is not None:
            _log(run, config, records, scores)
            run.finish()
    except Exception as error:  # whatever W&B raises, the sweep has its files
        warn(f"no summary in W&B: {' '.join(str(error).split())[:200]}; the table is in results.csv")


def _log(run: "wandb.Run", config: SweepConfig, records: list[Record], scores: HeldOut) -> None:
    import wandb

    header, rows = table_of(records, config.mode)
    run.log(
        {
            "trials": wandb.Table(
                columns=list[str | int](header), data=[[_plain(value) for value in row] for row in rows]
            )
        }
    )
    best = best_of(records, config.mode)
    if best is not None:
        run.summary["best"] = best.best(config.mode)
        run.summary["best_trial"] = best.name
    for trial, splits in scores.items():
        for split, found in splits.items():
            for name, value in found.items():
                run.summary[f"{'base' if trial == 'base recipe' else 'best'}/{split}/{name}"] = value


def _plain(value: Any) -> str:
    """A column of a W&B table has one type."""
    return str(value)
