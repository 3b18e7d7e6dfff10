"""Parts of All-in-one beside slow, obvious versions; and what is drawn for a sample."""

import math

import pytest
import torch
from torch import Tensor

from models.backbones.allinone.draws import Draw, matched, others_texts, patch_orders
from models.backbones.allinone.layers import in_order, rolled
from models.backbones.allinone.losses import ranking_loss, transport_loss
from models.collectives import Alone


@pytest.mark.parametrize(("frames", "words", "image"), [(3, 2, 17), (1, 2, 17), (2, 0, 9), (4, 3, 5)])
def test_the_roll_one_token_at_a_time(frames: int, words: int, image: int) -> None:
    x = torch.randn(2, frames, words + image, 3)
    found, fold = rolled(x, words), image // 8
    for n in range(2):
        for t in range(frames):
            for place in range(words + image):
                token, source = place - words, t
                if 1 <= token <= fold:
                    source = (t - 1) % frames
                elif token >= image - fold:
                    source = (t + 1) % frames
                assert torch.equal(found[n, t, place], x[n, source, place])


def test_patches_in_order() -> None:
    x = torch.randn(2, 3, 5, 4)
    order = torch.stack([torch.randperm(4) for _ in range(6)]).view(2, 3, 4)
    found = in_order(x, order)
    assert torch.equal(found[:, :, 0], x[:, :, 0])
    for n in range(2):
        for t in range(3):
            for r in range(4):
                assert torch.equal(found[n, t, 1 + r], x[n, t, 1 + order[n, t, r]])


def distance(words: list[list[float]], patches: list[list[float]]) -> float:
    """IPOT over what counts alone, in plain numbers."""

    def norm(x: list[float]) -> float:
        return max(math.sqrt(sum(a * a for a in x)), 1e-5)

    cost = [[1 - sum(a * b for a, b in zip(x, y, strict=True)) / norm(x) / norm(y) for y in patches] for x in words]
    xs, ys = range(len(words)), range(len(patches))
    plan = [[1.0 for _ in xs] for _ in ys]
    sigma = [1 / len(words) for _ in xs]
    for _ in range(50):
        q = [[math.exp(-cost[x][y] / 0.5) * plan[y][x] for x in xs] for y in ys]
        delta = [1 / (len(patches) * sum(q[y][x] * sigma[x] for x in xs)) for y in ys]
        sigma = [1 / (len(words) * sum(q[y][x] * delta[y] for y in ys)) for x in xs]
        plan = [[delta[y] * q[y][x] * sigma[x] for x in xs] for y in ys]
    return sum(cost[x][y] * plan[y][x] for x in xs for y in ys)


def test_transport_one_number_at_a_time() -> None:
    words, patches = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 5, 4, dtype=torch.float64)
    lengths, match = [6, 4, 3], torch.tensor([True, False, True])
    seen = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = 0.0
    for n, length in enumerate(lengths):
        found = distance(words[n, 1 : length - 1].tolist(), patches[n, 1:].tolist())
        expected += 0.1 * found if match[n] else -0.1 * found
    assert float(transport_loss(words, seen, patches, match)) == pytest.approx(expected, rel=1e-9)


def test_transport_of_a_text_without_words() -> None:
    words = torch.randn(2, 4, 3, requires_grad=True)
    seen = torch.arange(4) < torch.tensor([[2], [4]])
    patches = torch.randn(2, 5, 3)
    loss = transport_loss(words, seen, patches, torch.tensor([True, True]))
    of_words = transport_loss(words[1:], seen[1:], patches[1:], torch.tensor([True]))
    torch.testing.assert_close(loss, of_words)
    loss.backward()
    assert words.grad is not None
    assert words.grad.isfinite().all()
    assert not words.grad[0].any()
    assert words.grad[1].any()


def test_ranking_leaves_out_what_does_not_exist() -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0], [0.5, 9.0, 9.0]])
    exist = torch.tensor([[True, False], [False, False]])
    assert float(ranking_loss(scores, exist)) == pytest.approx(math.log(1 + math.e))


def test_orders_are_permutations_that_follow_from_seed_and_frame() -> None:
    seeds = torch.tensor([0, 1, 5, 2**61 + 3])
    orders = patch_orders(seeds, 3, 49)
    assert torch.equal(orders.sort(-1).values, torch.arange(49).expand(4, 3, 49))
    assert len(orders.flatten(0, 1).unique(dim=0)) == 12
    for row in range(4):
        assert torch.equal(patch_orders(seeds[row : row + 1], 3, 49)[0], orders[row])
    assert torch.equal(patch_orders(seeds.flip(0), 2, 49), orders[:, :2].flip(0))


def test_draws_are_as_even_as_random_ones() -> None:
    """Every patch is anywhere as often, every pair in either order as often; seeds that follow each other or not."""
    for seeds in (torch.arange(4000), torch.arange(4000) * 2**49):
        orders = patch_orders(seeds, 1, 8)[:, 0]
        counts = torch.stack([(orders == patch).sum(0) for patch in range(8)])
        assert (counts - 500).abs().max() < 5 * math.sqrt(500 * 7 / 8)
        halves = matched(seeds)
        assert abs(int(halves.sum()) - 2000) < 5 * math.sqrt(1000)
        agree = int((halves == (orders[:, 0] < 4)).sum())
        assert abs(agree - 2000) < 5 * math.sqrt(1000)


class Others(Alone):
    """Collectives of a worker whose rows stand after some others'."""

    def __init__(self, ids: Tensor, seeds: Tensor) -> None:
        self.rows = {ids.dim(): ids, seeds.dim(): seeds}

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        before = self.rows[rows.dim()]
        return torch.cat([before, rows]), len(before)


def test_texts_of_others() -> None:
    source = torch.Generator().manual_seed(0)
    ids, seeds = torch.randint(1, 99, (9, 5), generator=source), torch.randint(2**62, (9,), generator=source)
    ids[3] = ids[0]
    found, exist = others_texts(ids, seeds, Draw.FALSE_TEXTS, 8, Alone())
    assert found.shape == (9, 8, 5)
    assert exist.sum(1).tolist() == [7, 8, 8, 7, 8, 8, 8, 8, 8]
    for row in range(9):
        others = {tuple(text) for text in ids.tolist()} - {tuple(ids[row].tolist())}
        assert {tuple(text) for text in found[row][exist[row]].tolist()} == others
    late, _ = others_texts(ids[6:], seeds[6:], Draw.FALSE_TEXTS, 2, Others(ids[:6], seeds[:6]))
    assert torch.equal(late, found[6:, :2])
    partners, _ = others_texts(ids, seeds, Draw.PARTNER, 1, Alone())
    assert not torch.equal(partners[:, 0], found[:, 0])
    for count in (0, 1):
        few, any_exist = others_texts(ids[:count], seeds[:count], Draw.PARTNER, 1, Alone())
        assert few.shape == (count, 1, 5)
        assert not any_exist.any()
