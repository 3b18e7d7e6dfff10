"""Tracking with real files, a real full disk, W&B offline, W&B without a server and W&B with a stand-in server."""

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distributed.metrics_file import MetricsFile
from distributed.tracking import Tracker, TrackingConfig, read_metrics
from models.errors import UserError

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"
LOCAL = TrackingConfig(wandb="disabled")


def local(directory: Path, resume_step: int = -1) -> Tracker:
    return Tracker.open(directory, LOCAL, run_name="r", recipe={}, resume_step=resume_step)


def steps(directory: Path) -> list[int]:
    return [record["step"] for record in read_metrics(directory / "metrics.jsonl")]


def python(code: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process whose home and W&B settings are its own; it must end well and without a traceback."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NETRC"))}
    clean |= {"HOME": str(directory / "home"), "PYTHONPATH": str(ROOT), **environment}
    (directory / "home").mkdir(exist_ok=True)
    prelude = """
        import os, signal, sys, threading
        from pathlib import Path
        from distributed.tracking import Tracker, TrackingConfig
        def tracker(mode="auto", group=None, **more):
            more = {"run_name": "my run/1", "recipe": {"a": {"b": (1, 2)}}, "resume_step": -1, **more}
            return Tracker.open(Path("out"), TrackingConfig(wandb=mode, tags=("t",), group=group), **more)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        check=False,
        cwd=directory,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line]


# The local file


def test_figures_of_all_kinds(tmp_path: Path) -> None:
    tracker = local(tmp_path)
    inf = float("inf")
    figures: Any = {
        "loss": 0.5,
        "count": 3,
        "nan": float("nan"),
        "list": [1.0, inf, -inf],
        "text": 'a\n"b" é',
        "float32": np.float32(0.25),
        "tensor": torch.tensor(2.0),
    }
    tracker.log(figures, 7)
    tracker.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert "NaN" not in lines[0].replace('"NaN"', "")
    record = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert list(record)[:2] == ["step", "time"]
    assert record.pop("time") > 1.7e9
    expected = {"step": 7, "loss": 0.5, "count": 3, "nan": "NaN", "list": [1.0, "Infinity", "-Infinity"]}
    assert record == {**expected, "text": 'a\n"b" é', "float32": 0.25, "tensor": 2.0}
    assert math.isnan(float(record["nan"]))


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    tracker = local(tmp_path / "deep" / "er")
    for step in range(3):
        tracker.log({"a": 1.0}, step)
        assert steps(tmp_path / "deep" / "er") == list(range(step + 1))
    tracker.close()


@pytest.mark.parametrize("name", ["step", "time"])
def test_reserved_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        local(tmp_path).log({name: 1.0}, 1)


@pytest.mark.parametrize(("resume", "kept"), [(-1, []), (0, [0]), (3, [0, 1, 2, 3, 3]), (5, [0, 1, 2, 3, 3, 4, 5])])
def test_resume_drops_later_steps(tmp_path: Path, resume: int, kept: list[int]) -> None:
    tracker = local(tmp_path)
    for step in (0, 1, 2, 3, 3, 4, 5):
        tracker.log({"a": float(step)}, step)
    tracker.close()
    tracker = local(tmp_path, resume)
    assert steps(tmp_path) == kept
    tracker.log({"a": 0.0}, resume + 1)
    tracker.close()
    assert steps(tmp_path) == [*kept, resume + 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_resume_that_drops_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    local(tmp_path).log({"a": 1.0}, 1)
    before = (tmp_path / "metrics.jsonl").stat()
    local(tmp_path, 1).close()
    after = (tmp_path / "metrics.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@given(st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_a_kill_in_the_middle_of_a_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    lines = [json.dumps({"step": step, "time": 1.0, "a": 0.123}) for step in range(4)]
    text = "\n".join(lines) + "\n"
    cut = min(cut, len(text))
    path.write_text(text[:cut])
    # A line counts if all of it is there, its newline or not.
    whole = [step for step in range(4) if sum(len(line) + 1 for line in lines[: step + 1]) - 1 <= cut]
    assert steps(path.parent) == whole
    tracker = local(path.parent, 10)
    tracker.log({"a": 1.0}, 9)
    tracker.close()
    assert steps(path.parent) == [*whole, 9]


def test_damage_elsewhere_is_an_error_to_read_and_a_warning_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\n{"step": 2}\n[3]\n{"step": "x"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: expected a JSON object"):
        read_metrics(path)
    local(tmp_path, 5).close()
    assert "3 damaged lines were dropped" in capsys.readouterr().err
    assert steps(tmp_path) == [1, 2]


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").touch()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


# A disk that is full


FULL = """
    import resource
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    code = """
        log = tracker("disabled")
        log.log({"a": 0.5}, 0)
        size = os.path.getsize("out/metrics.jsonl")
        limit(size + 10)                     # room for a part of a line
        for step in range(1, 5):
            log.log({"a": 0.5}, step)
            assert os.path.getsize("out/metrics.jsonl") == size, "half a line stands in the file"
        limit(resource.RLIM_INFINITY)
        log.log({"a": 0.5}, 5)
        assert open("out/metrics.jsonl").read().count("\\n") == 6
        limit(size)
        log.log({"a": 0.5}, 6)
        limit(resource.RLIM_INFINITY)
        log.close()
    """
    done = python(textwrap.dedent(FULL) + textwrap.dedent(code), tmp_path)
    assert steps(tmp_path / "out") == list(range(7))
    assert len(warnings(done)) == 1
    assert "figures are kept in memory" in done.stderr


def test_full_disk_to_the_end_says_what_is_lost(tmp_path: Path) -> None:
    code = """
        log = tracker("disabled")
        log.log({"a": 0.5}, 0)
        limit(os.path.getsize("out/metrics.jsonl"))
        log.log({"a": 0.5}, 1)
        log.log({"a": 0.5}, 2)
        log.close()
    """
    done = python(textwrap.dedent(FULL) + textwrap.dedent(code), tmp_path)
    assert steps(tmp_path / "out") == [0]
    assert "2 lines of figures could not be written and are lost" in warnings(done)[-1]


def test_full_disk_at_the_start_of_a_resumed_run(tmp_path: Path) -> None:
    code = """
        log = tracker("disabled")
        for step in range(10):
            log.log({"a": 0.5}, step)
        log.close()
        limit(20)                            # not even the shortened file fits
        log = tracker("disabled", resume_step=4)
        log.log({"a": 1.5}, 5)
        assert open("out/metrics.jsonl").read().count("\\n") == 10, "the old file must survive"
        limit(resource.RLIM_INFINITY)
        log.log({"a": 1.5}, 6)
        log.close()
    """
    python(textwrap.dedent(FULL) + textwrap.dedent(code), tmp_path)
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [(record["step"], record["a"]) for record in records] == [(s, 0.5 if s < 5 else 1.5) for s in range(7)]


def test_real_small_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 40_000)
        tracker = local(disk / "run")
        for step in range(200):
            tracker.log({"a": [0.1234567] * 20}, step)
        assert len(steps(disk / "run")) < 200
        ballast.unlink()
        for step in range(200, 210):
            tracker.log({"a": 1.0}, step)
        tracker.close()
        assert steps(disk / "run") == list(range(210))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_directory_that_cannot_be_made_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file stands in the way")
    metrics = MetricsFile(tmp_path / "out" / "metrics.jsonl", -1)
    metrics.append({"step": 1})
    (tmp_path / "out").unlink()
    metrics.append({"step": 2})
    metrics.close()
    assert steps(tmp_path / "out") == [1, 2]
    assert capsys.readouterr().err.count("warning:") == 1


# W&B


LOG = """
    log.log({"loss": 0.5, "nan": float("nan"), "list": [1.0, 2.0], "text": "x"}, 1)
    log.log({"loss": 0.25}, 1)
    log.log({"loss": 0.125}, 2)
"""


def runs(directory: Path) -> list[Path]:
    return sorted((directory / "out" / "wandb").glob("*run-*/*.wandb"))


def test_offline_without_a_key(tmp_path: Path) -> None:
    done = python("log = tracker()" + textwrap.dedent(LOG) + "log.close()", tmp_path)
    assert warnings(done) == []
    assert done.stdout == ""
    (file,) = runs(tmp_path)
    assert file.parent.name.startswith("offline-run-")
    assert file.stat().st_size > 0
    assert b"loss" in file.read_bytes()
    assert file.stem == "run-" + (tmp_path / "out" / "wandb_id.txt").read_text().strip()
    assert file.stem.startswith("run-my-run-1-")
    assert steps(tmp_path / "out") == [1, 1, 2]


def test_resumed_run_keeps_its_id_and_another_run_of_the_name_has_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        python("tracker('offline').close()", tmp_path)
    assert len({file.name for file in runs(tmp_path)}) == 1
    (tmp_path / "other").mkdir()
    python("tracker('offline').close()", tmp_path / "other")
    assert runs(tmp_path / "other")[0].name != runs(tmp_path)[0].name


@pytest.mark.parametrize("known", ["", "a/b", "../../x", "x" * 100])
def test_damaged_id_is_replaced(tmp_path: Path, known: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "wandb_id.txt").write_text(known)
    python("tracker('offline').close()", tmp_path)
    assert runs(tmp_path)[0].name.startswith("run-my-run-1-")


def test_disabled_makes_no_wandb_files(tmp_path: Path) -> None:
    python(
        "log = tracker('disabled')" + textwrap.dedent(LOG) + "log.close()\nassert 'wandb' not in sys.modules", tmp_path
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.jsonl"]


def test_environment_chooses_for_auto(tmp_path: Path) -> None:
    python("tracker().close()", tmp_path, WANDB_MODE="disabled")
    assert runs(tmp_path) == []
    python("tracker('offline').close()", tmp_path, WANDB_MODE="disabled")
    assert len(runs(tmp_path)) == 1


def test_online_without_a_key(tmp_path: Path) -> None:
    done = python("tracker('online').close()", tmp_path)
    assert warnings(done) == ["warning: W&B is offline: no API key (set WANDB_API_KEY or run `wandb login`)"]
    assert len(runs(tmp_path)) == 1


def all_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_no_server(tmp_path: Path, mode: str) -> None:
    code = f"log = tracker('{mode}')" + textwrap.dedent(LOG) + "log.close()"
    done = python(code, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert len(warnings(done)) == 1
    assert warnings(done)[0].startswith("warning: W&B is offline: ")
    assert runs(tmp_path)[0].parent.name.startswith("offline-run-")
    assert steps(tmp_path / "out") == [1, 1, 2]
    assert KEY.encode() not in all_bytes(tmp_path)


def test_key_of_a_wrong_form(tmp_path: Path, server: "Server") -> None:
    done = python("tracker().close()", tmp_path, WANDB_API_KEY="short-key", WANDB_BASE_URL=server.url)
    assert len(warnings(done)) == 1
    assert len(runs(tmp_path)) == 1
    assert b"short-key" not in all_bytes(tmp_path)
    assert "short-key" not in done.stderr


def test_secrets_of_the_environment_reach_no_file(tmp_path: Path) -> None:
    code = f"""
        log = tracker("offline", recipe={{"url": "s3://{KEY}@host", "list": ["hunter2-hunter2"]}})
        log.log({{"note": "token hunter2-hunter2 here"}}, 1)
        log.close()
    """
    python(code, tmp_path, WANDB_API_KEY=KEY, **{"DB_PASSWORD": "hunter2-hunter2"})
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")[0]["note"] == "token *** here"
    found = all_bytes(tmp_path / "out")
    assert KEY.encode() not in found
    assert b"hunter2" not in found


class Server:
    """Speaks as much of W&B's protocol as a run needs and keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        bodies = self.bodies
        project = {"id": "p", "name": "meltmatch", "entity": {"id": "e", "name": "me"}}

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                bodies.append(body.decode(errors="replace"))
                data: dict[str, Any] = {}
                if self.path == "/graphql":
                    query = json.loads(body)
                    name = query["variables"].get("name")
                    bucket = {"id": "b", "name": name, "displayName": name, "config": "{}", "project": project}
                    files = [{"name": file, "uploadUrl": "/up"} for file in query["variables"].get("files") or []]
                    answers: dict[str, dict[str, Any]] = {
                        "RunResumeStatus": {"model": {**project, "bucket": None}},
                        "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
                        "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}},
                    }
                    data = answers.get(query.get("operationName"), {})
                answer = json.dumps({"data": data}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.do_POST()

            def do_PUT(self) -> None:
                self.do_POST()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


ONLINE = "log = tracker(group='sweep-7')" + textwrap.dedent(LOG)


@pytest.mark.parametrize("key_in", ["environment", "netrc"])
def test_online(tmp_path: Path, server: Server, key_in: str) -> None:
    environment = {"WANDB_API_KEY": KEY}
    if key_in == "netrc":
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {server.url.removeprefix('http://')} login user password {KEY}\n")
        netrc.chmod(0o600)
        environment = {"NETRC": str(netrc)}
    done = python(ONLINE + "log.close()", tmp_path, WANDB_BASE_URL=server.url, **environment)
    assert warnings(done) == []
    sent = "\n".join(server.bodies).replace("\\", "")
    assert '"loss":0.125' in sent
    assert '"nan":"NaN"' in sent
    assert '"groupName":"sweep-7"' in sent
    assert steps(tmp_path / "out") == [1, 1, 2]
    assert KEY.encode() not in all_bytes(tmp_path / "out")


def test_server_that_never_answers(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        done = python(ONLINE + "log.close()", tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
    assert len(warnings(done)) == 1
    assert warnings(done)[0].startswith("warning: W&B is offline: ")
    assert steps(tmp_path / "out") == [1, 1, 2]


def test_wandb_process_dies_in_the_middle(tmp_path: Path) -> None:
    code = """
        log = tracker("offline")
        log.log({"loss": 1.0}, 1)
        import time
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, fields = entry.read_text().rsplit(")", 1)
            except OSError:
                continue
            if int(fields.split()[1]) == os.getpid() and "wandb-core" in name:
                os.kill(int(entry.parent.name), signal.SIGKILL)
        for step in range(2, 8):
            time.sleep(0.2)
            log.log({"loss": 1.0}, step)
        log.close()
    """
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find the W&B process")
    done = python(code, tmp_path)
    assert len(warnings(done)) == 1
    assert warnings(done)[0].startswith("warning: W&B stopped: ")
    assert steps(tmp_path / "out") == list(range(1, 8))


def test_in_a_thread(tmp_path: Path) -> None:
    """Ray Train runs its workers' function in a thread."""
    code = """
        def work():
            log = tracker()
            log.log({"loss": 1.0}, 1)
            log.close()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    done = python(code, tmp_path)
    assert warnings(done) == []
    assert len(runs(tmp_path)) == 1


def test_wandb_without_room_for_its_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "wandb").write_text("a file stands in the way")
    python("log = tracker('offline')" + textwrap.dedent(LOG) + "log.close()", tmp_path)
    assert steps(tmp_path / "out") == [1, 1, 2]


def test_config_is_strict() -> None:
    assert TrackingConfig() == TrackingConfig(wandb="auto", project="meltmatch", entity=None, tags=())
    with pytest.raises(ValidationError):
        TrackingConfig.model_validate({"wandb": "of"})


def test_figure_of_a_wrong_kind_is_the_programmers_error(tmp_path: Path) -> None:
    wrong: Any = {"a": object()}
    with pytest.raises(TypeError):
        local(tmp_path).log(wrong, 1)
    assert steps(tmp_path) == []
