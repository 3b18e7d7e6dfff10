"""Fixed coefficients of named losses."""

import pytest
from pydantic import ValidationError

from models.combiners import SingleConfig, SumConfig, WeightedConfig, fixed_coefficients, losses_needed
from models.errors import UserError
from models.meltr.config import MELTRConfig
from models.meltr.transformer import PRESETS

NAMES = ("joint", "align", "decoder")


def test_coefficients() -> None:
    assert fixed_coefficients(SingleConfig(), NAMES, "align").tolist() == [0, 1, 0]
    assert fixed_coefficients(SumConfig(), NAMES, "align").tolist() == [1, 1, 1]
    weighted = WeightedConfig(weights={"decoder": 8.0, "joint": 0.5})
    assert fixed_coefficients(weighted, NAMES, "align").tolist() == [0.5, 0, 8]


def test_weights_that_mean_nothing() -> None:
    with pytest.raises(
        UserError, match=r"combiner\.weights\.cmfm: this task has no such loss; its losses are joint, al"
    ):
        fixed_coefficients(WeightedConfig(weights={"joint": 1.0, "cmfm": 1.0}), NAMES, "align")
    with pytest.raises(UserError, match="every weight is zero"):
        fixed_coefficients(WeightedConfig(weights={"joint": 0.0}), NAMES, "align")


def test_presets_by_name() -> None:
    assert MELTRConfig.model_validate({"network": "univl"}).network == PRESETS["univl"]
    with pytest.raises(ValidationError, match="no preset 'unvil'; there are paper, univl"):
        MELTRConfig.model_validate({"network": "unvil"})
    with pytest.raises(ValidationError, match="width=20 must be a multiple of heads=8"):
        MELTRConfig.model_validate({"network": {"width": 20}})


def test_only_losses_that_count_are_needed() -> None:
    names = ("a", "b", "c")
    assert losses_needed(SingleConfig(), names, "b") == ("b",)
    assert losses_needed(SumConfig(), names, "b") == names
    assert losses_needed(WeightedConfig(weights={"c": 2.0, "a": -1.0, "b": 0.0}), names, "b") == ("a", "c")
    assert losses_needed(MELTRConfig(), names, "b") == names
