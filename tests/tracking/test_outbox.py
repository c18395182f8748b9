"""Nothing that was told is lost: not while the server is away, not when the process dies."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vaepipe.errors import Unreachable
from vaepipe.tracking import outbox
from vaepipe.tracking.outbox import Outbox, RefusedError, Stumbled, merged

ADDRESS = "http://store"


class Server:
    """Takes operations; can be switched off, and refuses what it is told to refuse."""

    def __init__(self, *, up: bool = True) -> None:
        self.up, self.taken, self.bad = up, [], {}

    def __call__(self, operation):
        if not self.up:
            raise Unreachable("the server is away.")
        if operation["record"] in self.bad:
            raise self.bad[operation["record"]]
        self.taken.append(operation)

    @property
    def values(self):
        return [m for op in self.taken if op["op"] == "log" for m in op["metrics"]]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(outbox, "LINGER", 0.01)
    monkeypatch.setattr(outbox, "PAUSES", (0.01, 0.02))


def metric(record: str, value: float) -> outbox.Operation:
    return {"op": "log", "record": record, "metrics": [["m", value]], "params": {}, "tags": {}}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.outbox")) if folder.exists() else []


def test_merging_keeps_the_order_within_a_record_and_never_crosses_another_operation():
    end = {"op": "end", "record": "a", "status": "FINISHED"}
    queue = [metric("a", 1), metric("b", 5), metric("a", 2), end, metric("a", 3)]
    a = [op for op in merged(queue) if op["record"] == "a"]
    assert [op["op"] for op in a] == ["log", "end", "log"]
    assert a[0]["metrics"] == [["m", 1], ["m", 2]]
    assert queue[0]["metrics"] == [["m", 1]], "what waits is not changed by a try to send it"


def test_everything_arrives_and_the_file_goes(tmp_path):
    server = Server()
    box = Outbox(tmp_path / "unsent", ADDRESS, server)
    for value in range(2500):
        box.put(metric("a", value))
    assert box.close(10) == 0
    assert [v for _, v in server.values] == list(range(2500))
    assert not (tmp_path / "unsent").exists()


def test_a_server_that_comes_back_gets_everything_in_order(tmp_path, caplog):
    server = Server(up=False)
    box = Outbox(tmp_path, ADDRESS, server)
    with caplog.at_level(logging.WARNING, "vaepipe.tracking"):
        for value in range(100):
            box.put(metric("a", value))
        assert not box.wait(10)
        assert box.failing
    assert len(caplog.records) == 1, "said once, not at every try"
    server.up = True
    assert box.close(10) == 0
    assert [v for _, v in server.values] == list(range(100))


def test_what_was_not_delivered_is_delivered_by_the_next_process(tmp_path):
    box = Outbox(tmp_path, ADDRESS, Server(up=False))
    box.put(metric("a", 1.0))
    box.put(metric("a", 2.0))
    assert box.close(1) == 2
    assert len(files(tmp_path)) == 1
    server = Server()
    later = Outbox(tmp_path, ADDRESS, server)
    later.put(metric("b", 3.0))
    assert later.close(10) == 0
    assert [v for _, v in server.values] == [1.0, 2.0, 3.0]
    assert all(op.get("again") for op in server.taken if op["record"] == "a")
    assert not files(tmp_path)


def test_a_killed_process_loses_nothing(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from vaepipe.errors import Unreachable
from vaepipe.tracking.outbox import Outbox
def away(operation):
    raise Unreachable("away")
box = Outbox(Path(sys.argv[1]), sys.argv[2], away)
for value in range(50):
    box.put({"op": "log", "record": "a", "metrics": [["m", value]], "params": {}, "tags": {}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script, str(tmp_path), ADDRESS]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    server = Server()
    assert Outbox(tmp_path, ADDRESS, server).close(10) == 0
    assert [v for _, v in server.values] == list(range(50))


def test_files_of_living_processes_and_of_other_stores_are_left_alone(tmp_path):
    alive = Outbox(tmp_path, ADDRESS, Server(up=False))
    alive.put(metric("a", 1.0))
    other = Outbox(tmp_path, "http://elsewhere", Server(up=False))
    other.put(metric("b", 2.0))
    other.close(1)
    server = Server()
    assert Outbox(tmp_path, ADDRESS, server).close(10) == 0
    assert server.taken == []
    assert set(files(tmp_path)) == {alive.path, other.path}
    alive.close(1)


def test_a_line_cut_off_by_a_crash_does_not_spoil_the_rest(tmp_path):
    path = tmp_path / "dead.outbox"
    lines = [json.dumps({"address": ADDRESS}), json.dumps(metric("a", 1.0)), '{"op": "log", "rec']
    path.write_text("\n".join(lines))
    server = Server()
    assert Outbox(tmp_path, ADDRESS, server).close(10) == 0
    assert server.values == [["m", 1.0]]


def test_what_the_server_refuses_is_set_aside_with_its_reason(tmp_path, caplog):
    server = Server()
    server.bad["a"] = RefusedError("no such parameter.")
    box = Outbox(tmp_path, ADDRESS, server)
    with caplog.at_level(logging.WARNING, "vaepipe.tracking"):
        box.put(metric("a", 1.0))
        box.put(metric("b", 2.0))
        assert box.close(10) == 0
    assert server.values == [["m", 2.0]]
    kept = json.loads((tmp_path / outbox.REFUSED).read_text())
    assert kept["metrics"] == [["m", 1.0]]
    assert "no such parameter" in kept["error"]
    assert "no such parameter" in caplog.text


def test_a_defect_in_one_operation_does_not_end_the_delivery(tmp_path):
    server = Server()
    server.bad["a"] = KeyError("missing")
    box = Outbox(tmp_path, ADDRESS, server)
    box.put(metric("a", 1.0))
    box.put(metric("b", 2.0))
    assert box.close(10) == 0
    assert server.values == [["m", 2.0]]
    assert "KeyError" in (tmp_path / outbox.REFUSED).read_text()


def test_one_operation_that_breaks_the_server_does_not_hold_up_the_others(tmp_path):
    server = Server()
    server.bad["a"] = Stumbled("internal error.")
    box = Outbox(tmp_path, ADDRESS, server)
    box.put(metric("a", 1.0))
    box.put(metric("b", 2.0))
    with box._changed:
        assert box._changed.wait_for(lambda: not box._waiting, 30)
    assert server.values == [["m", 2.0]]
    assert (tmp_path / outbox.REFUSED).exists()
    assert box.close(10) == 0


def test_a_slow_server_holds_up_nobody_who_puts(tmp_path):
    gate, taken = threading.Event(), []

    def slow(operation):
        gate.wait(30)
        taken.append(operation)

    box = Outbox(tmp_path, ADDRESS, slow)
    for value in range(1000):
        box.put(metric("a", value))
    assert taken == []
    gate.set()
    assert box.close(10) == 0
    assert sum(len(op["metrics"]) for op in taken) == 1000


def test_waiting_is_for_what_was_put_before_even_if_others_never_stop(tmp_path):
    server, stop = Server(), threading.Event()
    box = Outbox(tmp_path, ADDRESS, server)

    def chatter():
        while not stop.wait(0.001):
            box.put(metric("other", 0.0))

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        for value in range(5):
            box.put(metric("mine", 1.0 + value))
            assert box.wait(30)
            assert ["m", 1.0 + value] in server.values
    finally:
        stop.set()
        thread.join()
    assert box.close(10) == 0


def test_an_interruption_does_not_wait_for_a_server_that_hangs(tmp_path, monkeypatch):
    """Its waits share a few seconds; what was not sent stays in the file."""
    answer = threading.Event()
    box = Outbox(tmp_path, ADDRESS, lambda operation: answer.wait(60) and None)
    box.put(metric("a", 1))
    granted = []
    monkeypatch.setattr(box._changed, "wait_for", lambda until, limit: granted.append(limit))
    monkeypatch.setattr(outbox.time, "monotonic", lambda: 100.0 + sum(granted))
    assert not box.wait(10.0)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert not box.wait(300.0)
        assert not box.wait(300.0, insist=True)
        assert box.close(300.0) == 1
    answer.set()
    assert granted[:4] == [10.0, outbox.HURRY, 0.0, 0.0]
    assert len(files(tmp_path)) == 1
