"""The recipe of a run: the sum of its components' configurations, checked before anything is launched."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distributed.engine import EngineConfig
from distributed.recipe_file import PathField
from distributed.tracking import TrackingConfig
from models.config import StrictConfig
from models.data.alignment_set import AlignmentDataConfig
from models.neumatch.decoding import DecodingConfig
from models.neumatch.network import NeuMATCHConfig
from models.optim.lars import OptimiserConfig
from models.optim.schedule import ScheduleConfig


class BaselineConfig(StrictConfig):
    """A plain aligner; `distributed.evaluate` fits and scores it on the spot."""

    name: Literal["all_unmatched", "uniform", "ridge", "two_tower"]


class TrainingConfig(StrictConfig):
    """How long and on how much at a time. The global batch is fixed; each worker's share follows from it."""

    epochs: int = Field(default=350, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Samples a step over all workers."""
    label_smoothing: float = Field(default=0.03, ge=0, lt=1)
    evaluate_every: int = Field(default=10, ge=1)
    """Epochs between evaluations on the validation split."""
    log_every: int = Field(default=7, ge=1)
    """Steps between figures in the log."""


class ScalingConfig(StrictConfig):
    """What Ray is asked for. Nothing here changes the numbers."""

    workers: int = Field(default=1, ge=1)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """Default: one where the cluster has a GPU for every worker, else none."""
    cpus_per_worker: float = Field(default=1, gt=0)
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of PyTorch; default: cpus_per_worker."""
    max_failures: int = Field(default=3, ge=0)
    """How often a run whose worker died starts again from its newest checkpoint."""
    collective_timeout_s: int = Field(default=600, ge=5)


class CheckpointConfig(StrictConfig):
    """When to save and what to keep. The best (on the validation split) is always kept beside the newest."""

    every_epochs: int = Field(default=10, ge=1)
    every_steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)


class Recipe(StrictConfig):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's folder below `storage`. The same name continues the same run."""
    task: Literal["alignment"]
    seed: int = Field(default=101, ge=0)
    storage: PathField = Path("runs")
    """A folder that all nodes share."""
    init_from: PathField | None = None
    """An export whose weights the run starts from."""
    data: AlignmentDataConfig
    model: Annotated[NeuMATCHConfig | BaselineConfig, Field(discriminator="name")] = NeuMATCHConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    decoding: DecodingConfig = DecodingConfig()
    engine: EngineConfig = EngineConfig()
    scaling: ScalingConfig = ScalingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        shares = self.scaling.workers * self.engine.accumulation
        if shares > self.training.batch_size:
            raise ValueError(
                f"training.batch_size={self.training.batch_size} cannot be shared by scaling.workers="
                f"{self.scaling.workers} x engine.accumulation={self.engine.accumulation}; use a larger batch or fewer"
            )
        sbn = isinstance(self.model, NeuMATCHConfig) and self.model.normalisation == "sbn"
        if sbn and self.engine.accumulation > 1:
            raise ValueError(
                "model.normalisation='sbn' needs the statistics of the whole batch at once: set engine.accumulation=1 "
                "(and use more workers if memory is short)"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.storage.absolute() / self.name

    def trajectory(self) -> dict[str, Any]:
        """The part that decides the numbers: a checkpoint may only be continued under the same."""
        elsewhere = {"name", "storage", "scaling", "checkpoint", "tracking", "decoding"}
        part = self.model_dump(mode="json", exclude=elsewhere)
        part["engine"].pop("zero_stage")
        part["engine"].pop("accumulation")
        part["data"].pop("root")
        for key in ("epochs", "evaluate_every", "log_every"):  # a run may be made longer
            part["training"].pop(key)
        return part
