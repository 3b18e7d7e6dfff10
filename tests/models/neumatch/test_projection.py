"""Random projection and standardisation: distribution, determinism, constant dimensions, saving."""

import pytest
import torch

from models.errors import UserError
from models.neumatch.projection import Preprocessing, random_projection


def features(rows: int = 50, width: int = 20) -> torch.Tensor:
    return 5 + 3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_entries_are_drawn_as_published() -> None:
    matrix = random_projection(2048, 300, 1)
    values, counts = matrix.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([-(3**0.5), 0.0, 3**0.5]))
    # 614,400 draws: five standard deviations of a share are below 0.003.
    torch.testing.assert_close(counts / matrix.numel(), torch.tensor([1 / 6, 2 / 3, 1 / 6]), rtol=0, atol=0.003)
    assert float(matrix.mean()) == pytest.approx(0, abs=0.01)
    assert float(matrix.square().mean()) == pytest.approx(1, abs=0.01)


def test_the_seed_decides() -> None:
    assert torch.equal(random_projection(7, 5, 3), random_projection(7, 5, 3))
    assert not torch.equal(random_projection(7, 5, 3), random_projection(7, 5, 4))
    state = torch.random.get_rng_state()
    random_projection(7, 5, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("target", [None, 8])
def test_training_split_becomes_standard(target: int | None) -> None:
    raw = features()
    fitted = Preprocessing.fit(raw, target, 0)
    out = fitted(raw)
    assert out.shape == (50, target or 20)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean(0), torch.zeros(out.shape[1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0), torch.ones(out.shape[1]), rtol=1e-5, atol=0)
    # By hand: project first, then standardise.
    projected = raw.double() if target is None else raw.double() @ random_projection(20, 8, 0).double()
    expected = (projected - projected.mean(0)) / projected.std(0)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
    new = features(3)
    torch.testing.assert_close(fitted(new)[:1], fitted(new[:1]))
    assert fitted(raw[:0]).shape == (0, target or 20)
    assert fitted.width == 20


def test_a_dimension_that_never_varies_is_zero() -> None:
    raw = features()
    raw[:, 3], raw[:, 4] = 7.25, 0.0
    out = Preprocessing.fit(raw, None, 0)(raw)
    assert not bool(out[:, [3, 4]].any())
    assert bool(out.isfinite().all())
    assert bool(Preprocessing.fit(torch.zeros(4, 6), 3, 0)(torch.ones(2, 6)).isfinite().all())


def test_width_error() -> None:
    for target in (None, 8):
        with pytest.raises(UserError, match="features of width 19, but this model was fitted on width 20"):
            Preprocessing.fit(features(), target, 0)(torch.zeros(2, 19))


@pytest.mark.parametrize("target", [None, 8])
def test_saved_and_restored(target: int | None) -> None:
    fitted = Preprocessing.fit(features(), target, 0)
    state = fitted.state("video")
    assert all(name.startswith("video.") for name in state)
    assert torch.equal(Preprocessing.from_state(state, "video")(features(4)), fitted(features(4)))
