"""The plain PyTorch loop that the README shows."""

import re
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[3]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.trunk(x))
        return self.first(hidden), self.second(hidden)


def test_the_loop_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (loop,) = [block for block in blocks if "LearnedLoss(" in block]
    torch.manual_seed(0)
    batches = [(torch.randn(9, 6), torch.randint(5, (9,)), torch.randint(4, (9,))) for _ in range(5)]
    names: dict[str, Any] = {"model": TwoHeads(), "batches": batches}
    before = [p.detach().clone() for p in names["model"].parameters()]
    (tmp_path / "loop.py").write_text(loop, encoding="utf-8")
    names |= runpy.run_path(str(tmp_path / "loop.py"), names)
    assert names["learned"].steps == 5
    assert names["combination"].coefficients.isfinite().all()
    assert not any(torch.equal(p, b) for p, b in zip(names["model"].parameters(), before, strict=True))
