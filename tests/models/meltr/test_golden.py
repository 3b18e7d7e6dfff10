"""The conformance vectors of MELTR, float64 to 1e-9: M, its derivatives, hypergradients by every way, Algorithm 1."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.meltr.bilevel import LearnedLoss
from models.meltr.config import MELTRConfig
from models.meltr.hypergradient import SCHEMES, WAYS, Problem, hypergradient
from models.meltr.machine import OneProcess
from models.meltr.transformer import unified_and_coefficients
from tests.models.meltr import golden as g

CASES = {
    "gamma0_same_batch": None,
    "gamma0.3_same_batch": None,
    "gamma0_heldout": g.SECOND,
    "gamma0.3_heldout": g.SECOND,
}
EXACT_WAYS = ("double_backward", "forward_mode", "per_task")


@pytest.fixture(scope="module")
def golden(golden_root: Path) -> dict[str, Any]:
    return g.read(golden_root)


def test_the_unified_loss_and_its_derivatives(golden: dict[str, Any]) -> None:
    losses = torch.tensor(golden["fixed_losses"], dtype=torch.float64)
    unified, coefficients = unified_and_coefficients(g.loss_transformer(golden), losses)
    assert unified.item() == pytest.approx(golden["combined"], rel=1e-9, abs=1e-9)
    assert coefficients.tolist() == pytest.approx(golden["d_combined_d_losses"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("way", [*EXACT_WAYS, "finite_difference"])
@pytest.mark.parametrize("shared", [True, False], ids=["one forward", "its own forwards"])
@pytest.mark.parametrize("case", CASES)
def test_hypergradients(golden: dict[str, Any], case: str, shared: bool, way: str) -> None:
    expected, network, module = golden[case], g.loss_transformer(golden), g.toy(golden)
    graph = g.TRAINING(module)
    losses = graph.detach()
    assert losses.tolist() == pytest.approx(expected["losses"], rel=1e-9)
    problem = Problem(
        OneProcess(module),
        network,
        g.TRAINING,
        losses,
        primary=0,
        gamma=expected["gamma"],
        graph=graph if shared else None,
        meta=CASES[case],
        direct_regulariser_gradient=False,
    )
    found = dict(
        zip(
            [name for name, _ in network.named_parameters()],
            hypergradient(problem, SCHEMES["aid_fp_lite"], WAYS[way]),
            strict=True,
        )
    )
    # A difference of losses cannot be better than its own truncation.
    rel, absolute = (1e-9, 1e-9) if way in EXACT_WAYS else (1e-5, 1e-7)
    for name, _ in golden["meltr_parameters_in_order"]:
        ours = found[g.ours(name)]
        assert ours.norm().item() == pytest.approx(expected["hypergradient_norms"][name], rel=rel, abs=absolute), name
        assert g.first(ours, 8) == pytest.approx(expected["hypergradient_first8"][name], rel=rel, abs=absolute), name


@pytest.mark.parametrize("way", EXACT_WAYS)
def test_algorithm_1(golden: dict[str, Any], way: str) -> None:
    module, rounds = g.toy(golden), golden["algorithm1_trace"]
    machine = OneProcess(module)
    config = MELTRConfig.model_validate(
        {
            "initialisation": "paper",
            "way": way,
            "inner_steps": 3,
            "gamma": 0.3,
            "direct_regulariser_gradient": False,
            "rate": 0.01,
            "gradient_cap": 0.0,
        }
    )
    learned = LearnedLoss(config, ("a", "b", "c", "d"), "a", seed=0)
    learned.network = g.loss_transformer(golden)
    learned.parameters = list(learned.network.parameters())
    learned.optimiser = torch.optim.Adam(learned.parameters, 0.01)
    sgd = torch.optim.SGD(module.parameters(), lr=0.05)
    for step in range(3 * len(rounds) + 1):
        shares = g.TRAINING(module)
        due = learned.meta_due
        assert due == (step > 0 and step % 3 == 0)
        before = unified_and_coefficients(learned.network, shares)[0].item()
        combination = learned.combine(machine, g.TRAINING, shares, shares)
        if due:
            check_round(golden, rounds[step // 3 - 1], learned, module, shares.tolist(), before)
        sgd.zero_grad()
        (combination.coefficients * shares).sum().backward()
        sgd.step()


def check_round(
    golden: dict[str, Any],
    expected: dict[str, Any],
    learned: LearnedLoss,
    module: torch.nn.Module,
    losses: list[float],
    unified: float,
) -> None:
    """A round's end: the losses and the weights that its meta step saw, and phi after it."""
    assert losses == pytest.approx(expected["losses"], rel=1e-9)
    assert unified == pytest.approx(expected["aux"], rel=1e-9)
    for parameters, name in ((learned.parameters, "phi_norm"), (list(module.parameters()), "w_norm")):
        norm = torch.stack([p.detach().square().sum() for p in parameters]).sum().sqrt().item()
        assert norm == pytest.approx(expected[name], rel=1e-9)
    found = dict(learned.network.named_parameters())
    for name, _ in golden["meltr_parameters_in_order"]:
        total = expected["meltr_parameter_sums"][name]
        assert found[g.ours(name)].sum().item() == pytest.approx(total, rel=1e-9, abs=1e-9), name
