"""What workers tell the driver: each event once, and no trouble with it ends or hides the work's own result."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

import pytest
import ray

from s2l_ray.execution.event_channel import event_channel, hand_over

pytestmark = pytest.mark.usefixtures("ray_cluster")


def pid_of(box: Any) -> int:
    """Of the mailbox's process."""
    return int(ray.get(box.__ray_call__.remote(lambda self: os.getpid())))


def test_every_event_arrives_once_and_in_order():
    told: list[int] = []
    with event_channel(lambda event: told.append(event["n"]), every_s=0.01) as box:
        for n in range(300):
            box.put.remote({"n": n})
            time.sleep(0.001)
    assert told == list(range(300))


def test_an_error_of_the_listener_is_logged_once_and_the_others_are_told(caplog):
    told: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["n"] % 3 == 0:
            raise ZeroDivisionError(f"event {event['n']}")
        told.append(event["n"])

    with caplog.at_level(logging.WARNING), event_channel(listen, every_s=0.01) as box:
        for n in range(30):
            box.put.remote({"n": n})
            time.sleep(0.01)
        result = "what the work came to"
    assert result
    assert told == [n for n in range(30) if n % 3]
    [first] = [record for record in caplog.records if record.exc_info]
    assert "the work continues" in first.getMessage()
    assert "event 0" in caplog.text
    assert "Traceback" in caplog.text
    assert "failed on 10 events in total" in caplog.text


def test_an_error_of_the_listener_does_not_take_the_place_of_the_works_own():
    def refuse(event: dict[str, Any]) -> None:
        raise ZeroDivisionError

    def work() -> None:
        with event_channel(refuse, every_s=60) as box:
            ray.get(box.put.remote({"n": 1}))
            raise KeyError("the work's")

    with pytest.raises(KeyError, match="the work's"):
        work()


@pytest.mark.parametrize("every_s", [0.01, 60])  # while it is polled; only at the end
def test_a_mailbox_that_dies_takes_nothing_with_it(caplog, every_s: float):
    told: list[int] = []
    with caplog.at_level(logging.WARNING), event_channel(lambda event: told.append(event["n"]), every_s=every_s) as box:
        ray.get(box.put.remote({"n": 1}))
        time.sleep(0.5)
        os.kill(pid_of(box), signal.SIGKILL)
        time.sleep(2)
        box.put.remote({"n": 2})  # as workers do, who ask for no answer
        result = "what the work came to"
    assert result
    if every_s < 1:
        assert told == [1]
        assert caplog.text.count("can no longer be followed") == 1
        assert "Traceback" not in caplog.text


def test_an_answer_that_is_lost_is_asked_for_again(monkeypatch):
    """A mailbox that stands still answers too late; what it answers then is said again."""
    monkeypatch.setattr("s2l_ray.execution.event_channel._ANSWER_S", 0.5)
    told: list[int] = []
    with event_channel(lambda event: told.append(event["n"]), every_s=0.05) as box:
        process = pid_of(box)
        for n in range(20):
            box.put.remote({"n": n})
            if n == 10:
                os.kill(process, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process, signal.SIGCONT)
    assert told == list(range(20))


def test_events_beyond_its_room_are_counted(caplog):
    told: list[int] = []
    with caplog.at_level(logging.WARNING), event_channel(lambda e: told.append(e["n"]), every_s=60, most=10) as box:
        ray.get([box.put.remote({"n": n}) for n in range(25)])
    assert told == list(range(15, 25))
    assert "15 of the workers' events were dropped" in caplog.text


def test_a_single_event_is_handed_over_in_safety(caplog):
    assert hand_over({"n": 1}, lambda event: None)
    assert not hand_over({"n": 1}, lambda event: event["missing"])
    assert "KeyError" in caplog.text
