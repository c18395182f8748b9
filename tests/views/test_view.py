"""What a run shows: plain lines that can be read in a log, a table on a terminal."""

import io
import os
import threading

import pytest

from vaepipe.cli.progress import Job
from vaepipe.cli.view import View, is_plain


def start(epochs=10, time=0.0, **more):
    return {
        "event": "start",
        "epochs": epochs,
        "world_size": 1,
        "device": "cpu",
        "time": time,
    } | more


def epoch(number, value=None, time=0.0, **metrics):
    scores = {} if value is None else {"val/log_evidence": value, "val/log_evidence_se": 0.25}
    return {
        "event": "epoch",
        "epoch": number,
        "step": number,
        "time": time,
        "metrics": scores | metrics,
    }


def lines(tell) -> list[str]:
    """What a plain view writes while `tell` talks to it."""
    file = io.StringIO()
    view = View(file, plain=True)
    tell(view)
    view.close()
    return file.getvalue().splitlines()


def test_a_fit_writes_a_line_for_each_tenth():
    """Thirty epochs: begin, ten lines on the way, end."""

    def tell(view):
        view.stage("fit", "train", "waiting")
        view.stage("fit", "train", "running")
        view.event("fit", None, start(30))
        for e in range(1, 31):
            view.event("fit", None, epoch(e, -120.0 + e, 2.0 * e, examples_per_second=5120.0))
        done = {"event": "done", "seconds": 61.2, "best_epoch": 30, "time": 61.2}
        view.event("fit", None, done)
        view.stage("fit", "train", "done")

    shown = lines(tell)
    assert shown[:3] == [
        "fit (train) running",
        "fit: 30 epochs, 1 worker, cpu",
        "fit: epoch 3/30, val/log_evidence -117.00 (se 0.25), 5,120 examples/s, 54.0 s left",
    ]
    assert shown[-2:] == [
        "fit: done in 1 min 01 s, best epoch 30, val/log_evidence -90.00 (se 0.25)",
        "fit (train) done",
    ]
    assert len(shown) == 14


def test_a_sweep_writes_a_line_for_each_trial_that_ended():
    """With the best so far; the epochs of trials are silent."""

    def tell(view):
        view.expect("tune", trials=3)
        view.stage("tune", "sweep", "running", "3 trials")
        for trial, value in (("00000", -99.0), ("00001", -95.0), ("00002", -97.0)):
            view.event("tune", trial, start(2))
            view.event("tune", trial, epoch(1, value - 1))
            view.event("tune", trial, epoch(2, value))
            view.event("tune", trial, {"event": "done", "seconds": 4.0, "best_epoch": 2})

    head, *ends = lines(tell)
    assert head == "tune (sweep) running: 3 trials"
    assert ends == [
        f"tune: {count}/3 trials, {trial} done: val/log_evidence {value} (se 0.25), epoch 2/2, "
        f"4.0 s; best {best}"
        for count, trial, value, best in (
            (1, "00000", "-99.00", "00000 -99.00"),
            (2, "00001", "-95.00", "00001 -95.00"),
            (3, "00002", "-97.00", "00001 -95.00"),
        )
    ]


def ranking(view):
    """A sweep whose second trial won the second look, the first being as good."""
    view.expect("tune", trials=2)
    view.stage("tune", "sweep", "running")
    for trial, value in (("00000", -95.0), ("00001", -95.1)):
        view.event("tune", trial, epoch(1, value))
        view.event("tune", trial, {"event": "done", "best_epoch": 1})
    view.event("tune", None, {"event": "start", "total": 400, "unit": "rows of finalists"})
    final = {"final/log_evidence": -93.0, "final/log_evidence_se": 0.2}
    view.event("tune", "00001", {"event": "ranked", "place": 1, "tie": False, **final})
    off = {"difference_to_best": -0.13, "difference_se": 0.1, "tie": True}
    view.event("tune", "00000", {"event": "ranked", "place": 2, **off})
    view.stage("tune", "sweep", "done", "best")


def test_a_leaderboard_is_read_by_differences_to_the_best():
    """A tie is said to be one, in both views; the last frame keeps the leaderboard."""
    shown = lines(ranking)
    assert shown[-4:] == [
        "tune: 400 rows of finalists",
        "tune: 1. 00001: val/log_evidence -95.10 (se 0.25), final -93.00 (se 0.20)",
        "tune: 2. 00000: val/log_evidence -95.00 (se 0.25), -0.13 (se 0.10) to the best, a tie",
        "tune (sweep) done: best",
    ]
    file = io.StringIO()
    view = View(file, plain=False)
    ranking(view)
    view.close()
    frame = file.getvalue().rpartition("tune")[2]
    assert "1. 00001: val/log_evidence -95.10" in frame
    assert "-0.13 (se 0.10) to the best, a tie" in " ".join(frame.split())


def test_the_best_follows_the_metric_and_its_direction():
    """A sweep over a rate prefers the smaller."""

    def tell(view):
        view.expect("tune", metric="val/rate", mode="min")
        for trial, value in (("a", 3.0), ("b", 2.0)):
            view.event("tune", trial, epoch(1, **{"val/rate": value}))
            view.event("tune", trial, {"event": "done"})

    assert [line.rpartition("; ")[2] for line in lines(tell)] == ["best a 3.00", "best b 2.00"]


def test_a_failed_trial_is_never_the_best():
    """It has no model, however good its last epoch was."""

    def tell(view):
        view.event("tune", "00000", epoch(1, -50.0))
        view.event("tune", "00000", {"event": "failed", "error": "TrainingError:\n rate is nan"})
        view.event("tune", "00001", epoch(1, -99.0))
        view.event("tune", "00001", {"event": "stopped"})

    failed, stopped = lines(tell)
    assert failed.startswith("tune: 1 trials, 00000 failed: TrainingError: rate is nan")
    assert "best" not in failed
    assert stopped.endswith("; best 00001 -99.00")


def test_a_resumed_fit_says_so_and_estimates_from_what_it_did_itself():
    """Ten epochs were done before; each epoch of this attempt took four seconds."""

    def tell(view):
        view.event("fit", None, start(20, time=100.0, resumed_from=10))
        view.event("fit", None, epoch(12, time=108.0))

    assert (
        lines(tell)
        == [
            "fit: resumed after epoch 10 of 20, 1 worker, cpu",
            "fit: epoch 12/20, no val/log_evidence, 32.0 s left",
        ]
        or lines(tell)[1] == "fit: epoch 12/20, 32.0 s left"
    )


def test_other_work_counts_its_rows():
    """Evaluate and encode tell how many rows are done; what an earlier run did is not its pace."""

    def tell(view):
        view.event("codes", None, {"event": "start", "total": 4000, "done": 2000, "time": 0.0})
        for done in range(2100, 4001, 100):
            event = {"event": "progress", "done": done, "total": 4000, "time": done / 100 - 20}
            view.event("codes", None, event)
        view.event("codes", None, {"event": "done", "total": 4000, "time": 20.5})

    shown = lines(tell)
    assert shown == [
        "codes: 2,000/4,000 rows",
        "codes: 2,400/4,000 rows, 16.0 s left",
        "codes: 2,800/4,000 rows, 12.0 s left",
        "codes: 3,200/4,000 rows, 8.0 s left",
        "codes: 3,600/4,000 rows, 4.0 s left",
        "codes: 4,000/4,000 rows",
        "codes: done in 20.5 s",
    ]


def test_names_and_errors_cannot_steer_a_terminal():
    """Control characters, line breaks and markup are text, in both views."""
    hostile = "x\x1b[2J\n[red]\u202e"
    for plain in (True, False):
        file = io.StringIO()
        view = View(file, plain=plain)
        view.stage(hostile, "sweep", "running", hostile)
        view.event(hostile, hostile, start(2))
        view.event(hostile, hostile, {"event": "failed", "error": hostile})
        view.close()
        assert "\x1b[2J" not in file.getvalue()
        assert "\u202e" not in file.getvalue()
        assert "[red]" in file.getvalue()


def test_metrics_may_be_missing_or_not_finite():
    """A fit without validation, and one that diverged, are shown all the same."""
    for value in (None, float("nan"), float("-inf")):
        for plain in (True, False):
            file = io.StringIO()
            view = View(file, plain=plain)
            view.stage("tune", "sweep", "running")
            view.event("tune", "00000", start(1))
            view.event("tune", "00000", epoch(1, value))
            view.event("tune", "00000", {"event": "done", "seconds": None, "best_epoch": None})
            view.close()
            assert "00000" in file.getvalue()


def test_what_comes_after_the_end_is_not_shown():
    """Closing twice does nothing; late events are heard and not shown."""
    file = io.StringIO()
    view = View(file, plain=True)
    view.close()
    view.close()
    view.stage("fit", "train", "done")
    view.event("fit", None, start())
    assert file.getvalue() == ""


def test_unknown_events_change_nothing():
    """A newer worker may tell more than this view knows."""
    job = Job(None, "val/log_evidence")
    job.tell({"event": "start", "epochs": 2, "time": 1.0})
    before = (job.status, job.done, job.total)
    job.tell({"event": "tea", "time": 2.0})
    assert (job.status, job.done, job.total) == before


@pytest.mark.parametrize("plain", [True, False])
def test_events_may_come_from_many_threads(plain):
    """Whole lines, each trial once."""
    before = set(threading.enumerate())
    file = io.StringIO()
    view = View(file, plain=plain)
    view.expect("tune", trials=8)
    view.stage("tune", "sweep", "running")

    def work(number):
        view.event("tune", f"{number:05d}", start(20))
        for e in range(1, 21):
            view.event("tune", f"{number:05d}", epoch(e, -100.0 + number))
        view.event("tune", f"{number:05d}", {"event": "done", "best_epoch": 20})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view.close()
    if plain:
        shown = file.getvalue().splitlines()
        assert len(shown) == 9
        assert sorted(line.split()[3] for line in shown[1:]) == [f"{n:05d}" for n in range(8)]
        assert shown[-1].endswith("best 00007 -93.00")
    started = set(threading.enumerate()) - before
    for thread in started:  # the refresher of a live table ends after its last interval
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)


def test_a_terminal_shows_trials_best_first_and_how_far_they_are(monkeypatch):
    """Status marks, scores and the count of trials are on the last frame."""
    monkeypatch.setenv("COLUMNS", "100")
    file = io.StringIO()
    view = View(file, plain=False)
    view.expect("tune", trials=4)
    view.stage("digits", "data", "done", "1,797 rows")
    view.stage("tune", "sweep", "running")
    for trial, value in (("00000", -99.0), ("00001", -95.0)):
        view.event("tune", trial, start(5))
        view.event("tune", trial, epoch(3, value, examples_per_second=1234.0))
    view.event("tune", "00000", {"event": "stopped"})
    view.close()
    frame = file.getvalue()
    last = frame[frame.rindex("1,797 rows") :]
    assert "1/4 trials ended, best 00001 -95.00" in last
    assert last.index("00001", last.index("epoch")) < last.index("00000", last.index("epoch"))
    assert "1,234" in last
    assert "3/5" in last


def test_no_color_means_no_colour(monkeypatch):
    """NO_COLOR keeps the table and drops its colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    view = View(file, plain=False)
    view.stage("fit", "train", "failed")
    view.close()
    assert "fit" in file.getvalue()
    assert "\x1b[3" not in file.getvalue()


def test_only_a_terminal_that_can_move_its_cursor_is_not_plain(monkeypatch, tmp_path):
    """Files and dumb terminals get lines."""
    with (tmp_path / "log").open("w") as file:
        assert is_plain(file)
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm-256color")
        assert not is_plain(terminal)
        monkeypatch.setenv("TERM", "dumb")
        assert is_plain(terminal)
