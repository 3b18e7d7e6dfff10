"""The progress line, driven by a clock that the test turns."""

import pytest

from distributed.progress import Progress


class Run:
    """A progress with a clock at `now` and the lines that it printed."""

    def __init__(self, total: int = 2450, start: int = 0, samples: int = 32, per_epoch: int = 7) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.progress = Progress(
            total, start, samples, per_epoch, interval=10.0, clock=lambda: self.now, write=self.lines.append
        )

    def step(self, step: int, seconds: float, best: tuple[str, float] | None = None) -> None:
        self.now += seconds
        self.progress.update(step, 0.53214, 7e-3, best)


def test_the_whole_line() -> None:
    run = Run()
    run.step(84, 84 * 32 / 142, ("text_iou", 12.3))
    seconds = (2450 - 84) * 32 / 142
    assert run.lines == [
        "epoch 12/350  step 84/2450  loss 0.5321  rate 7.0e-03  142 samples/s"
        f"  ETA {int(seconds // 60)}m{round(seconds % 60):02d}s  best text_iou 12.3"
    ]


def test_first_line_at_once_then_at_most_every_interval_then_the_last() -> None:
    run = Run(total=100, per_epoch=100)
    for step in range(1, 101):
        run.step(step, 1.0)
    assert [line.split("  ")[1] for line in run.lines] == [f"step {step}/100" for step in (*range(1, 101, 10), 100)]
    assert run.lines[-1].endswith("ETA 0s")


def test_slow_steps_print_each() -> None:
    run = Run(total=5)
    for step in range(1, 6):
        run.step(step, 60.0)
    assert len(run.lines) == 5
    assert "0.53 samples/s" in run.lines[0]


def test_speed_follows_the_last_lines_only() -> None:
    run = Run(total=10_000, samples=1, per_epoch=10_000)
    run.step(1, 1000.0)  # a slow start
    for step in range(11, 1000, 10):
        run.step(step, 10.0)
    assert "1 samples/s" in run.lines[-1]
    assert "ETA 2h30m" in run.lines[-1]


def test_resumed_run_counts_its_own_steps_only() -> None:
    run = Run(total=2000, start=1000, samples=10, per_epoch=100)
    run.step(1001, 1.0)
    assert run.lines[0].startswith("epoch 11/20  step 1001/2000")
    assert "10 samples/s  ETA 16m39s" in run.lines[0]


def test_no_speed_before_time_has_passed() -> None:
    run = Run()
    run.step(1, 0.0)
    run.step(0, 20.0)
    assert run.lines == [
        "epoch 1/350  step 1/2450  loss 0.5321  rate 7.0e-03",
        "epoch 1/350  step 0/2450  loss 0.5321  rate 7.0e-03",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45s"), (59.7, "1m00s"), (192, "3m12s"), (7500, "2h05m"), (3 * 3600, "3h00m"), (100_000, "1d03h")],
)
def test_eta(seconds: float, text: str) -> None:
    run = Run(total=2, per_epoch=1)
    run.step(1, seconds)
    assert f"ETA {text}" in run.lines[0]


@pytest.mark.parametrize(("step", "epoch"), [(0, "1/3"), (1, "1/3"), (7, "1/3"), (8, "2/3"), (14, "2/3"), (15, "3/3")])
def test_epochs_with_a_last_one_cut_short(step: int, epoch: str) -> None:
    run = Run(total=15)
    run.step(step, 1.0)
    assert run.lines[0].startswith(f"epoch {epoch}  ")


def test_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(1, 0, 1, 1).update(1, float("nan"), 0.0)
    assert capsys.readouterr().out.startswith("epoch 1/1  step 1/1  loss nan  rate 0.0e+00")
