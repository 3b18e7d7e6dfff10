"""Frozen parts: the same numbers, fewer parameters, the same names in a state dict."""

import pytest
import torch

from models.backbones.univl.network import UniVL
from models.errors import UserError
from models.freezing import freeze
from tests.models.backbones.univl import small


def test_forward_and_gradients_are_those_of_the_whole_network() -> None:
    whole, part = small.network(), small.network()
    names = [name for name, _ in whole.named_parameters()]
    freeze(part, lambda name: UniVL.component_of(name) in ("text", "visual"))
    assert set(part.state_dict()) == set(whole.state_dict())
    left = dict(part.named_parameters())
    assert set(left) == {name for name in names if UniVL.component_of(name) not in ("text", "visual")}
    for network in (whole, part):
        losses = network(small.batch(), ("align", "decoder", "cmfm"))
        torch.stack(list(losses.values())).sum().backward()
    for name, parameter in whole.named_parameters():
        if name in left and parameter.grad is not None:
            torch.testing.assert_close(left[name].grad, parameter.grad, msg=name)
    part.load_state_dict(whole.state_dict())


def test_something_is_left() -> None:
    with pytest.raises(UserError, match="leave one to train"):
        freeze(small.network(), lambda _: True)
