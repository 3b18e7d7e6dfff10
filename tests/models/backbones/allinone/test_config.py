"""What All-in-one is asked for, and which wishes are refused in one line."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from models.backbones.allinone.config import AllInOneConfig
from models.backbones.allinone.network import AllInOne
from models.backbones.video_language import Kind
from models.errors import UserError
from tests.models.backbones.allinone import small


@pytest.mark.parametrize(
    ("kind", "codes", "expected"),
    [
        ("retrieval", 0, ("itc", "mlm")),
        ("multiple_choice", small.CODES, ("mc", "mlm")),
        ("open_ended", 0, ("oe", "mlm")),
        ("recognition", small.CODES, ("recognition", "mvm")),
        ("recognition", 0, ("recognition",)),
    ],
)
def test_the_tasks_own_loss_leads(kind: Kind, codes: int, expected: tuple[str, ...]) -> None:
    assert AllInOneConfig().losses(kind, codes) == expected
    network = small.config().network(small.setting(kind, codes))
    assert tuple(network(small.batch(kind), expected)) == expected


def test_auxiliary_losses_in_their_order() -> None:
    assert AllInOneConfig(auxiliary=("vtm", "mlm")).losses("retrieval", 0) == ("itc", "vtm", "mlm")
    assert AllInOneConfig(auxiliary=()).losses("retrieval", 0) == ("itc",)


@pytest.mark.parametrize(
    ("auxiliary", "kind", "said"),
    [
        (("irtr",), "open_ended", "'irtr' is not for open_ended; possible here: mlm, vtm, wpa"),
        (("mlm", "mvm"), "retrieval", "'mvm' needs visual tokens; possible here: mlm, vtm, wpa, irtr"),
        (("mlm",), "recognition", "'mlm' is not for recognition; possible here: none"),
    ],
)
def test_auxiliary_losses_that_a_task_cannot_have(auxiliary: tuple[Any, ...], kind: Kind, said: str) -> None:
    with pytest.raises(UserError, match=f"^model.auxiliary: {said}$"):
        AllInOneConfig(auxiliary=auxiliary).losses(kind, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 18}, "image_size=18 must be a multiple of patch=4"),
        ({"heads": 3}, "hidden=16 must be a multiple of heads=3"),
        ({"auxiliary": ("mlm", "mlm")}, "names a loss twice"),
        ({"frozen": ("heads", "embeddings", "transformer")}, "leave one to train"),
        ({"frozen": ("heads",), "lora": {}}, "leave frozen empty"),
        ({"frozen": ("text",)}, "'text' is no part; there are embeddings, transformer, heads"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        small.config(**changes)


def test_settings_that_do_not_fit() -> None:
    good = small.setting("open_ended")
    for setting, said in (
        (replace(good, vocabulary=99), r"model.vocabulary=23: the tokenizer has 99 ids"),
        (
            replace(good, words=30),
            r"model.text_positions=8: texts have up to 30 tokens; lower inputs",
        ),
        (replace(good, classes=()), r"the data names no answers or classes for open_ended"),
    ):
        with pytest.raises(UserError, match=said):
            small.config().network(setting)


def test_parts_of_the_network() -> None:
    for kind in small.KINDS:
        network = small.network(kind)
        parts = {AllInOne.component_of(name) for name, _ in network.named_parameters()}
        assert parts == set(AllInOneConfig.COMPONENTS)
        inside = {id(p) for block in network.blocks() for p in block.parameters()}
        named = {id(p) for n, p in network.named_parameters() if AllInOne.component_of(n) == "transformer"}
        assert inside < named
        assert len(named - inside) == 2  # the last norm's
    assert small.config().cell == small.PATCH
