"""The recipe of a run: the sum of its components' configurations, checked before anything is launched."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, create_model, model_validator

from distributed.engine import EngineConfig
from distributed.recipe_file import PathField
from distributed.storage import Mirror, StorageField, below, mirror_of
from distributed.tracking import TrackingConfig
from models.backbones.catalog import BACKBONES, backbone
from models.backbones.resnet import ResNet, ResNetConfig
from models.backbones.univl.beam_search import BeamSearchConfig
from models.backbones.univl.config import UniVLConfig
from models.backbones.univl.network import UniVL
from models.backbones.video_language import Kind, VideoLanguageConfig
from models.combiners import CombinerConfig, SingleConfig
from models.config import StrictConfig
from models.data.alignment_set import AlignmentDataConfig
from models.data.classification_set import ClassificationDataConfig
from models.data.mosi import MOSIDataConfig
from models.data.msrvtt import MSRVTTDataConfig
from models.data.msrvtt_pixels import MSRVTTPixelsConfig
from models.data.pixel_sets import PixelDataConfig
from models.data.youcook2 import YouCook2DataConfig
from models.errors import UserError
from models.meltr.config import MELTRConfig
from models.neumatch.actions import YMS_ACTIONS
from models.neumatch.decoding import DecodingConfig
from models.neumatch.network import NeuMATCH, NeuMATCHConfig
from models.optim.lars import OptimiserConfig
from models.optim.schedule import ScheduleConfig
from models.tasks.alignment import LearningConfig
from models.tasks.video_language import PixelInputConfig
from models.tasks.video_text import InputConfig


class BaselineConfig(StrictConfig):
    """A plain aligner; `distributed.evaluate` fits and scores it on the spot."""

    name: Literal["all_unmatched", "uniform", "ridge", "two_tower"]


class TrainingConfig(StrictConfig):
    """How long and on how much at a time. The global batch is fixed; each worker's share follows from it."""

    epochs: int = Field(default=350, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Samples a step over all workers."""
    evaluate_every: int = Field(default=10, ge=1)
    """Epochs between evaluations on the validation split."""
    log_every: int = Field(default=7, ge=1)
    """Steps between figures in the log."""


class AlignmentTrainingConfig(LearningConfig, TrainingConfig):
    """The same, and what alignment alone has."""


class ScalingConfig(StrictConfig):
    """What Ray is asked for. Nothing here changes the numbers."""

    workers: int = Field(default=1, ge=1)
    min_workers: int | None = Field(default=None, ge=1)
    """Makes a run elastic: it begins with as many workers as there is room for, from this number to `workers`, goes on
    with those that are left when a node vanishes, and takes more when nodes come. The global batch stays the same."""
    resize_interval_s: float = Field(default=30, ge=1)
    """How often an elastic run that works looks for room for more workers; to take them it starts anew, from a
    checkpoint that it writes first."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """Default: one where the cluster has a GPU for every worker, else none."""
    cpus_per_worker: float = Field(default=1, gt=0)
    readers_per_worker: int = Field(default=0, ge=0)
    """Processes, each on a CPU beside the worker's own and through Ray Data, that decode frames for the steps to come;
    0: a thread of the worker does. For tasks from pixels."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of PyTorch; default: cpus_per_worker."""
    max_failures: int = Field(default=3, ge=0)
    """How often in a row, without a new checkpoint in between, a run whose workers died starts again. Nodes that were
    taken away with a warning do not count."""
    collective_timeout_s: int = Field(default=600, ge=5)


class CheckpointConfig(StrictConfig):
    """When to save and what to keep. The best (on the validation split) is always kept beside the newest."""

    every_epochs: int = Field(default=10, ge=1)
    every_steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)


class Recipe(StrictConfig):
    """What the recipes of all tasks have in common; each task's own class adds its data and its model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's folder below `storage`. The same name continues the same run."""
    task: Literal[
        "alignment", "classification", "retrieval", "captioning", "sentiment", "question_answering", "recognition"
    ]
    seed: int = Field(default=101, ge=0)
    storage: StorageField = Path("runs")
    """A folder that all nodes share, or the URI of any place that pyarrow or fsspec reaches: s3://bucket/runs, gs://...,
    hdfs://..., file:///mnt/x. A run in such a place has a mirror on every node, below MELTMATCH_CACHE (default:
    ~/.cache/meltmatch). Credentials are the provider's environment variables or files, never in the URI."""
    init_from: PathField | None = None
    """An export whose weights the run starts from."""
    data: Any
    model: Any = None
    combiner: CombinerConfig = SingleConfig()
    """How the task's losses become one."""
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: Any = None
    engine: EngineConfig = EngineConfig()
    scaling: ScalingConfig = ScalingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> "type[Recipe]":
        """The class of the task and the model that a recipe's values name; this one, which refuses it, where there is
        none.

        Raises:
            UserError: a backbone that sees pixels is not named, or does not exist.
        """
        task, model, data = values.get("task"), values.get("model"), values.get("data")
        name = model.get("name") if isinstance(model, Mapping) else None
        univl = task == "retrieval" and name == UniVLConfig().name
        if task in PIXEL_TASKS and isinstance(name, str) and not univl:
            return video_language_recipe(name)
        pixels = isinstance(data, Mapping) and data.get("name") == MSRVTTPixelsConfig.model_fields["name"].default
        if task in PIXEL_TASKS and (task != "retrieval" or pixels) and not univl:
            raise UserError(f"model.name: expected a backbone: {', '.join(BACKBONES)}, or your own as MODULE:CLASS")
        return RECIPES.get(task, cls) if isinstance(task, str) else cls

    COMPONENTS: ClassVar[tuple[str, ...]] = ()
    """The parts of the task's network that `optimiser.rates` may name."""

    @model_validator(mode="after")
    def _shared(self) -> Self:
        for name in self.optimiser.rates:
            if name not in self.COMPONENTS:
                raise ValueError(
                    f"optimiser.rates names {name!r}; the parts of this network are {', '.join(self.COMPONENTS)}"
                )
        shares = self.scaling.workers * self.engine.accumulation
        least, most = self.scaling.min_workers, self.scaling.workers
        if least is not None and least > most:
            raise ValueError(f"scaling.min_workers={least} is more than scaling.workers={most}; lower it")
        if shares > self.training.batch_size:
            raise ValueError(
                f"training.batch_size={self.training.batch_size} cannot be shared by scaling.workers="
                f"{self.scaling.workers} x engine.accumulation={self.engine.accumulation}; use a larger batch or fewer"
            )
        if isinstance(self.combiner, MELTRConfig):
            _check_learned(self.combiner, self.engine)
        return self

    @property
    def folder(self) -> Path:
        """Where the run works on this node: its place, or with a URI as storage the mirror of it."""
        return self._local / self.name

    @property
    def place(self) -> Path | str:
        """Where the run lives: a folder, or a URI."""
        return below(self.storage, self.name) if isinstance(self.storage, str) else self.folder

    @property
    def mirror(self) -> Mirror | None:
        """What keeps folder and place in step; None where they are the same."""
        return Mirror(self.folder, self.place) if isinstance(self.place, str) else None

    @property
    def cache(self) -> Path:
        """What can be made again, such as embeddings of sentences; with a URI as storage on this node alone."""
        return self._local / "cache"

    @property
    def _local(self) -> Path:
        return mirror_of(self.storage) if isinstance(self.storage, str) else self.storage.absolute()

    def micro_batches(self, workers: int) -> int:
        """Into how many parts each of so many workers cuts its share of a batch."""
        share = -(-self.training.batch_size // workers)
        most = self.engine.micro_batch
        return max(self.engine.accumulation, 1 if most is None else -(-share // most))

    def trajectory(self) -> dict[str, Any]:
        """The part that decides the numbers: a checkpoint may only be continued under the same."""
        elsewhere = {"name", "storage", "scaling", "checkpoint", "tracking", "decoding"}
        part = self.model_dump(mode="json", exclude=elsewhere)
        for key in ("zero_stage", "accumulation", "micro_batch", "activation_checkpointing"):
            part["engine"].pop(key)
        part["data"].pop("root")
        for key in ("evaluate_every", "log_every"):
            part["training"].pop(key)
        part.get("inputs", {}).pop("scored_at_once", None)
        learned_decay = isinstance(self.combiner, MELTRConfig) and self.combiner.linear_decay
        if not (learned_decay or self.schedule.linear_decay):
            part["training"].pop("epochs")  # a run may be made longer, unless a rate falls towards its end
        return part


def _check_learned(combiner: MELTRConfig, engine: EngineConfig) -> None:
    """What a learned loss cannot be combined with."""
    if combiner.way == "double_backward":
        raise ValueError(
            "combiner.way='double_backward' is the reference of the tests and runs outside the engine alone; "
            "use per_task, forward_mode or finite_difference"
        )
    if combiner.way == "forward_mode" and engine.zero_stage == 3:
        raise ValueError(
            "combiner.way='forward_mode' needs whole weights on every worker, which engine.zero_stage=3 does not keep; "
            "use combiner.way=per_task, or engine.zero_stage=2"
        )
    if engine.precision == "bf16" and (combiner.way in DIFFERENCES or combiner.scheme not in EXACT_SCHEMES):
        raise ValueError(
            "differences of losses or gradients need engine.precision=fp32 (in bf16 they give the wrong sign): use it, "
            "or combiner.scheme=aid_fp_lite with combiner.way=per_task or forward_mode"
        )
    if not engine.whole and combiner.meta_fraction < 1:
        raise ValueError("combiner.meta_fraction below 1 needs engine.accumulation=1 and no engine.micro_batch")


DIFFERENCES = ("finite_difference", "one_sided_difference")
EXACT_SCHEMES = ("aid_fp_lite", "itd")
"""Those that take no product with the Hessian."""


class AlignmentRecipe(Recipe):
    """NeuMATCH, or a plain aligner to score."""

    COMPONENTS = NeuMATCH.COMPONENTS
    task: Literal["alignment"]
    data: AlignmentDataConfig
    model: Annotated[NeuMATCHConfig | BaselineConfig, Field(discriminator="name")] = NeuMATCHConfig()
    training: AlignmentTrainingConfig = AlignmentTrainingConfig()
    decoding: DecodingConfig = DecodingConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        sbn = isinstance(self.model, NeuMATCHConfig) and self.model.normalisation == "sbn"
        if sbn and not self.engine.whole:
            raise ValueError(
                "model.normalisation='sbn' needs the statistics of the whole batch at once: set engine.accumulation=1 "
                "and no engine.micro_batch (and use more workers if memory is short)"
            )
        if self.data.captions is not None and self.training.contrastive is None:
            raise ValueError("data.captions is for contrastive pre-training: set training.contrastive.epochs=1 or more")
        if self.training.own_decisions:
            self._check_own_decisions()
        if self.engine.activation_checkpointing:
            raise ValueError("engine.activation_checkpointing: NeuMATCH has no blocks to recompute; set it false")
        if isinstance(self.combiner, MELTRConfig):
            raise ValueError("combiner.name='meltr' needs a task with several losses; alignment has one: use single")
        return self

    def _check_own_decisions(self) -> None:
        if isinstance(self.model, NeuMATCHConfig) and set(self.model.actions) != set(YMS_ACTIONS):
            raise ValueError(
                f"training.own_decisions knows what is right for the actions {', '.join(YMS_ACTIONS)} alone; "
                "set model.actions to these, or training.own_decisions=0"
            )
        if self.engine.zero_stage == 3:
            raise ValueError(
                "training.own_decisions walks step by step, which needs whole weights on every worker; "
                "use engine.zero_stage=2 or lower"
            )


class ClassificationRecipe(Recipe):
    """Images into classes, with the losses classification, mixup and rotation."""

    COMPONENTS = ResNet.COMPONENTS
    task: Literal["classification"]
    data: ClassificationDataConfig = ClassificationDataConfig()
    model: ResNetConfig = ResNetConfig()
    decoding: None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.engine.whole:
            raise ValueError(
                "model.name='resnet' normalises over the whole batch at once: set engine.accumulation=1 "
                "and no engine.micro_batch (and use more workers if memory is short)"
            )
        if self.init_from is not None:
            raise ValueError("init_from reads exports of alignment runs; this task has none yet")
        return self


class VideoTextRecipe(Recipe):
    """Retrieval, captioning or sentiment with UniVL and its losses."""

    COMPONENTS = UniVL.COMPONENTS
    task: Literal["retrieval", "captioning", "sentiment"]
    primary: Literal["align", "joint"] = "align"
    """Of retrieval: the loss that counts and whose scores rank the videos. `align` has the cross encoder look at every
    pair of a text and a video; `joint` compares one vector of each, which is far cheaper."""
    data: Annotated[MSRVTTDataConfig | YouCook2DataConfig | MOSIDataConfig, Field(discriminator="name")]
    model: UniVLConfig = UniVLConfig()
    inputs: InputConfig = InputConfig()
    decoding: BeamSearchConfig = BeamSearchConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.task == "sentiment") != isinstance(self.data, MOSIDataConfig):
            raise ValueError(
                f"data.name={self.data.name!r} has nothing for task={self.task!r}: sentiment goes with mosi, "
                "retrieval and captioning with msrvtt and youcook2"
            )
        if self.primary != "align" and self.task != "retrieval":
            raise ValueError(f"primary={self.primary!r} is of task='retrieval'; leave it out for {self.task!r}")
        if self.init_from is not None:
            raise ValueError("init_from reads exports of alignment runs; model.checkpoint names weights for this task")
        return self


class VideoLanguageRecipe(Recipe):
    """Retrieval, question answering or recognition from pixels; `video_language_recipe` gives the class of a model."""

    task: Literal["retrieval", "question_answering", "recognition"]
    data: PixelDataConfig
    model: VideoLanguageConfig
    inputs: PixelInputConfig = PixelInputConfig()
    decoding: None = None

    def __reduce__(self) -> tuple[Any, ...]:  # its class is made anew in every process
        return recipe_from_json, (self.model_dump_json(),)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        asks = TASK_OF_KIND[self.data.kind]
        if asks != self.task:
            raise ValueError(
                f"data.name={self.data.name!r} asks for task={asks!r}, not {self.task!r}; change one of them"
            )
        if self.init_from is not None:
            raise ValueError("init_from reads exports of alignment runs; model.checkpoint names weights for this task")
        return self


@cache
def video_language_recipe(backbone_name: str) -> type[Recipe]:
    """The class of recipes with that backbone.

    Raises:
        UserError: there is no such backbone.
    """
    chosen = backbone(backbone_name)
    made: type[Recipe] = create_model(
        VideoLanguageRecipe.__name__, __base__=VideoLanguageRecipe, model=(chosen, Field(default=...))
    )
    made.COMPONENTS = chosen.COMPONENTS
    return made


PIXEL_TASKS = ("retrieval", "question_answering", "recognition")
TASK_OF_KIND: dict[Kind, str] = {
    "retrieval": "retrieval",
    "multiple_choice": "question_answering",
    "open_ended": "question_answering",
    "recognition": "recognition",
}
RECIPES: dict[str, type[Recipe]] = {
    "alignment": AlignmentRecipe,
    "classification": ClassificationRecipe,
    "retrieval": VideoTextRecipe,
    "captioning": VideoTextRecipe,
    "sentiment": VideoTextRecipe,
    "question_answering": VideoLanguageRecipe,
    "recognition": VideoLanguageRecipe,
}


def recipe_from_json(text: str) -> Recipe:
    """The recipe that `model_dump_json` wrote."""
    return Recipe.variant(json.loads(text)).model_validate_json(text)
