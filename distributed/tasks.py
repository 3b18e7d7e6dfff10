"""From a recipe to its task: what the launcher checks and fits before anything starts, and what each worker loads."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from distributed.config import AlignmentRecipe, ClassificationRecipe, Recipe, VideoLanguageRecipe, VideoTextRecipe
from distributed.exported import read_export
from distributed.storage import PREPROCESSING
from models.backbones.univl.build import check_start
from models.combiners import losses_needed
from models.data.alignment_set import load_captions, load_examples
from models.data.classification_set import load_images
from models.data.examples import Example
from models.data.mosi import MOSIDataConfig, load_mosi
from models.data.msrvtt import MSRVTTDataConfig, load_msrvtt
from models.data.pixel_sets import load_asked
from models.data.youcook2 import load_youcook2
from models.errors import UserError
from models.neumatch.network import NeuMATCHConfig
from models.neumatch.samples import Preprocessors
from models.tasks.alignment import AlignmentTask
from models.tasks.classification import ClassificationTask
from models.tasks.task import Task
from models.tasks.video_language import VideoLanguageTask
from models.tasks.video_text import VideoTextTask


def prepare_task(recipe: Recipe, begun: bool) -> None:
    """Reads and checks all data, fits what is fitted once, and writes it into the run's folder.

    `begun`: the run has a checkpoint, and goes on with what was fitted for it.

    Raises:
        UserError: for whatever is wrong with the data or does not fit the run's checkpoint.
    """
    if isinstance(recipe, AlignmentRecipe):
        task: Task = _prepare_alignment(recipe, begun)
    else:
        if isinstance(recipe, VideoTextRecipe):
            check_start(recipe.model)
        elif not begun:
            (recipe.folder / PREPROCESSING).unlink(missing_ok=True)  # of a run that came to nothing
        task = load_task(recipe)
        if isinstance(task, VideoLanguageTask):
            task.check_network()
    losses_needed(recipe.combiner, task.names, task.primary)
    if isinstance(task, VideoLanguageTask):
        task.fit()


def load_task(recipe: Recipe) -> Task:
    """The task with its data, on a worker or for scoring, after `prepare_task`."""
    if isinstance(recipe, VideoTextRecipe):
        if isinstance(recipe.data, MSRVTTDataConfig):
            splits = load_msrvtt(recipe.data)
        else:
            splits = load_mosi(recipe.data) if isinstance(recipe.data, MOSIDataConfig) else load_youcook2(recipe.data)
        return VideoTextTask(recipe.task, recipe.model, recipe.inputs, recipe.decoding, splits, recipe.primary)
    if isinstance(recipe, VideoLanguageRecipe):
        asked, source = load_asked(recipe.data)
        fitted = recipe.folder / PREPROCESSING
        return VideoLanguageTask(recipe.model, recipe.inputs, asked, source, fitted, recipe.seed)
    if isinstance(recipe, ClassificationRecipe):
        return ClassificationTask(recipe.model, recipe.data, load_images(recipe.data))
    if not isinstance(recipe, AlignmentRecipe):
        raise ValueError(f"no task for a {type(recipe).__name__}")
    examples = load_examples(recipe.data, recipe.cache)
    return alignment_task(recipe, examples, Preprocessors.from_file(recipe.folder / PREPROCESSING))


def task_of_run(recipe: Recipe) -> Task:
    """The task of a trained run, whose weights come from its checkpoints."""
    task = load_task(recipe)
    task.drop_start()
    return task


def alignment_task(
    recipe: AlignmentRecipe, examples: Mapping[str, list[Example]], preprocessors: Preprocessors
) -> AlignmentTask:
    """The alignment task of examples at hand."""
    model = _neumatch(recipe)
    captions = partial(load_captions, recipe.data, recipe.cache)
    task = AlignmentTask(model, preprocessors, recipe.data.longest, recipe.training, recipe.decoding, captions)
    task.prepare(examples)
    return task


def _neumatch(recipe: AlignmentRecipe) -> NeuMATCHConfig:
    if not isinstance(recipe.model, NeuMATCHConfig):
        raise UserError(f"model.name={recipe.model.name} needs no training run: use `python -m distributed.evaluate`")
    return recipe.model


def _prepare_alignment(recipe: AlignmentRecipe, begun: bool) -> AlignmentTask:
    model = _neumatch(recipe)
    initial = read_export(recipe.init_from, recipe.model) if recipe.init_from is not None else None
    examples = load_examples(recipe.data, recipe.cache)
    if not examples["train"]:
        raise UserError("the training split is empty: there is nothing to train on")
    fitted: Path | None = None  # where what was fitted comes from, if not from this data
    if begun:
        fitted, preprocessors = recipe.folder, Preprocessors.from_file(recipe.folder / PREPROCESSING)
    elif initial is not None:
        fitted, preprocessors = recipe.init_from, initial.preprocessors
    else:
        target = model.width if model.projection == "rp" else None
        preprocessors = Preprocessors.fit(examples["train"], target, recipe.seed)
    try:
        preprocessors.apply(examples["train"][0])
    except UserError as error:
        raise UserError(f"{fitted}: {error}; use data with features like those it began with") from None
    if not begun:
        preprocessors.to_file(recipe.folder / PREPROCESSING)
        _check_captions(recipe, preprocessors)
    return alignment_task(recipe, examples, preprocessors)


def _check_captions(recipe: AlignmentRecipe, preprocessors: Preprocessors) -> None:
    """Reads the captioned videos once before anything starts; their embeddings stay in the cache."""
    captions = load_captions(recipe.data, recipe.cache)
    if captions is not None and captions.video.shape[1] != preprocessors.video.width:
        raise UserError(
            f"data.captions: features of width {captions.video.shape[1]}, but the movies' have width "
            f"{preprocessors.video.width}; expected features of one encoder"
        )
