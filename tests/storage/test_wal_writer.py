"""The writer's thread: groups by itself, reports in order, and after an error reports nothing."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

from kvstore.storage.errors import WalFailed
from kvstore.storage.wal import Wal
from kvstore.storage.wal_writer import WalWriter
from tests.storage.wal_files import METADATA, batch, entry, replaced_descriptor, segments

PATIENCE = 30.0
"""Seconds after which a report that did not come is called missing."""


class Reports:
    """What the writer reported; stands for the loop, whose part here is to run callbacks."""

    def __init__(self):
        self.calls = queue.SimpleQueue()
        self.done = []
        self.errors = []
        self.groups = []

    def run_until(self, condition):
        while not condition():
            self.calls.get(timeout=PATIENCE)()

    def run_queued(self):
        while not self.calls.empty():
            self.calls.get()()


class Gate:
    """Holds the writer's thread after its first group until it is opened."""

    def __init__(self, reports):
        self.reports = reports
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, size, write_seconds, sync_seconds):
        self.reports.groups.append((size, write_seconds, sync_seconds))
        self.reached.set()
        assert self.open.wait(PATIENCE)


def start(wal, reports, **options):
    return WalWriter(wal, reports.done.append, reports.errors.append, reports.calls.put, **options)


@pytest.fixture
def wal(tmp_path):
    wal = Wal.create(tmp_path, METADATA, segment_bytes=4096)
    yield wal
    wal.close()


def recover(wal, directory):
    wal.close()
    again, recovered = Wal.open(directory)
    again.close()
    return recovered


def test_a_reported_batch_is_in_the_log(wal, tmp_path):
    reports = Reports()
    writer = start(wal, reports)
    writer.submit(1, batch(1))
    reports.run_until(lambda: reports.done == [1])
    writer.close()
    assert recover(wal, tmp_path).entries == [entry(1)]


def test_what_queues_up_during_a_sync_becomes_one_group(wal, tmp_path):
    reports = Reports()
    gate = Gate(reports)
    writer = start(wal, reports, metrics=gate)
    writer.submit(1, batch(1))
    assert gate.reached.wait(PATIENCE)
    for token in range(2, 102):
        writer.submit(token, batch(token))
    gate.open.set()
    writer.close()
    reports.run_queued()
    assert reports.done == [1, 101]
    assert len(reports.groups) == 2
    assert all(size > 0 and write > 0 and sync > 0 for size, write, sync in reports.groups)
    assert len(recover(wal, tmp_path).entries) == 101


def test_a_group_ends_at_its_limit(wal, tmp_path):
    reports = Reports()
    gate = Gate(reports)
    writer = start(wal, reports, metrics=gate, group_bytes=1000)
    writer.submit(1, batch(1))
    assert gate.reached.wait(PATIENCE)
    for token in range(2, 8):
        writer.submit(token, batch(token, size=500))
    gate.open.set()
    writer.close()
    reports.run_queued()
    assert reports.done == [1, 3, 5, 7]


def test_close_writes_all_that_is_queued(wal, tmp_path):
    reports = Reports()
    writer = start(wal, reports)
    for token in range(1, 201):
        writer.submit(token, batch(token))
    writer.close()
    reports.run_queued()
    assert reports.done[-1] == 200
    assert reports.done == sorted(reports.done)
    assert len(recover(wal, tmp_path).entries) == 200


def test_release_runs_between_groups_in_its_turn(wal, tmp_path):
    reports = Reports()
    writer = start(wal, reports, group_bytes=500)
    for token in range(1, 101):
        writer.submit(token, batch(token, size=200))
    writer.release(90)
    writer.submit(101, batch(101))
    writer.close()
    reports.run_queued()
    assert reports.done[-1] == 101
    recovered = recover(wal, tmp_path)
    assert 0 < recovered.snapshot.index <= 90
    assert recovered.entries[-1] == entry(101)


def test_after_an_error_nothing_is_reported_any_more(wal, tmp_path):
    """Scenario 32: never acknowledged, never retried."""
    reports = Reports()
    writer = start(wal, reports)
    writer.submit(1, batch(1))
    reports.run_until(lambda: reports.done == [1])
    with replaced_descriptor(segments(tmp_path)[-1].name, "/dev/null"):
        writer.submit(2, batch(2))
        reports.run_until(lambda: reports.errors)
    writer.submit(3, batch(2))
    writer.close()
    reports.run_queued()
    (error,) = reports.errors
    assert isinstance(error, WalFailed)
    assert reports.done == [1]
    assert recover(wal, tmp_path).entries == [entry(1)]


def test_reports_arrive_on_an_asyncio_loop(wal):
    async def write():
        loop = asyncio.get_running_loop()
        durable = loop.create_future()
        writer = WalWriter(
            wal, durable.set_result, durable.set_exception, loop.call_soon_threadsafe
        )
        writer.submit(5, batch(1))
        token = await durable
        writer.close()
        return token

    assert asyncio.run(write()) == 5
