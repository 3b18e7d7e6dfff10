"""Contrastive pre-training: pairs come together, nothing else is touched, and a seed decides it all."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.neumatch.contrastive import ContrastiveConfig, pretrain
from models.neumatch.network import NeuMATCH, NeuMATCHConfig
from models.neumatch.pairs import Pairs, PairTable

CONFIG = ContrastiveConfig(epochs=40, batch_size=32, rate=0.003, dropout=0.1)


def table(count: int = 96) -> PairTable:
    """Texts that are a linear image of their clips."""
    source = torch.Generator().manual_seed(0)
    video, view = torch.randn(count, 12, generator=source), torch.randn(12, 10, generator=source)
    return PairTable.of(Pairs(video, video @ view, torch.arange(count)))


def network(lookahead: bool) -> NeuMATCH:
    torch.manual_seed(1)
    more = {"lookahead": {"hidden": 32, "joint": 16}} if lookahead else {}
    return NeuMATCH(NeuMATCHConfig.model_validate({"width": 24, "projection": "full", **more}), 12, 10)


def found(model: NeuMATCH, pairs: PairTable) -> float:
    """The share of clips whose nearest text is their own."""
    with torch.no_grad():
        return float(
            (model.lookahead.cosines(pairs.video, pairs.text).argmax(1) == torch.arange(len(pairs.video)))
            .float()
            .mean()
        )


def test_towers_learn_which_belong_together() -> None:
    model, pairs = network(True), table()
    before = found(model, pairs)
    said: list[str] = []
    pretrain(model, pairs, CONFIG, 3, said.append)
    assert found(model, pairs) > max(0.5, 5 * before)
    losses = [float(line.rpartition(" ")[2]) for line in said]
    assert len(losses) == 40
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("lookahead", [False, True])
def test_what_is_trained_and_what_is_not(lookahead: bool) -> None:
    model, untouched = network(lookahead), network(lookahead)
    state = torch.get_rng_state()
    pretrain(model, table(), CONFIG, 3)
    assert torch.equal(torch.get_rng_state(), state)
    changed = {
        n for (n, a), b in zip(model.named_parameters(), untouched.parameters(), strict=True) if not torch.equal(a, b)
    }
    if lookahead:
        assert changed == {
            n
            for n, _ in model.named_parameters()
            if n.startswith("lookahead") and "like" not in n and n != "lookahead.bias"
        }
    else:
        assert changed == {n for n, _ in model.named_parameters() if n.startswith("encoders")}
    again = network(lookahead)
    pretrain(again, table(), CONFIG, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_tables_add_up() -> None:
    one, two = table(4), table(6)
    both = one + two
    assert both.rows.tolist() == [[i, i] for i in range(10)]
    assert both.group.tolist() == list(range(10))

    def rows(of: PairTable) -> Tensor:
        return torch.cat([of.video[of.rows[:, 0]], of.text[of.rows[:, 1]]], 1)

    assert torch.equal(rows(both), torch.cat([rows(one), rows(two)]))
    assert F.cosine_similarity(both.video[4:], two.video).min() > 0.999
