"""Following a metrics.jsonl sees what reading it whole would, at any moment and over a resumption."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from distributed.metrics_file import MetricsFile, MetricsTail, read_metrics


@given(st.lists(st.integers(1, 60), max_size=30))
def test_sees_every_whole_line_once(pieces: list[int]) -> None:
    """Whatever the pieces in which the file grows."""
    import tempfile

    whole = b"".join(b'{"step": %d, "loss": 0.5}\n' % step for step in range(20))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        tail = MetricsTail(path)
        assert tail.records() == []
        written = 0
        for size in [*pieces, len(whole)]:
            with path.open("ab") as file:
                file.write(whole[written : written + size])
            written += size
            cut = path.read_bytes()
            complete = cut[: cut.rfind(b"\n") + 1].count(b"\n")
            assert [record["step"] for record in tail.records()] == list(range(complete))
        assert tail.records() == read_metrics(path)


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    first = MetricsFile(path, resume_step=-1)
    for step in range(5):
        first.append({"step": step, "loss": 1.0})
    assert len(tail.records()) == 5
    first.close()
    again = MetricsFile(path, resume_step=2)  # drops steps 3 and 4
    assert [record["step"] for record in tail.records()] == [0, 1, 2]
    for step in range(3, 6):
        again.append({"step": step, "loss": 2.0})
    assert tail.records() == read_metrics(path)
    assert [record["loss"] for record in tail.records()] == [1.0] * 3 + [2.0] * 3
    again.close()
