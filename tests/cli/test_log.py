"""Log lines have zap's form, and go where --log-outputs says."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.server.config import Config, ConfigError
from kvstore.server.log import LEVELS, setup_logging

log = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give pytest its handlers back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def written(path: Path, config: Config) -> list[str]:
    """The lines one message of every level leaves."""
    setup_logging(config)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "a %s", "message", extra={"index": 7, "peer": "ab"})
    return path.read_text().splitlines()


def test_a_json_line_has_the_parts_that_zap_writes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = json.loads(written(path, Config(log_outputs=(str(path),)))[0])
    assert list(line) == ["level", "ts", "caller", "msg", "index", "peer"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert re.fullmatch(r"cli/test_log\.py:\d+", line["caller"])
    assert (line["level"], line["msg"], line["index"]) == ("info", "a message", 7)


def test_a_console_line_has_its_fields_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = written(path, Config(log_format="console", log_outputs=(str(path),)))[0]
    assert line.split("\t")[1] == "info"
    assert line.split("\t")[3:] == ["a message", '{"index":7,"peer":"ab"}']


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warn", "error", "fatal"]),
        ("info", ["info", "warn", "error", "fatal"]),
        ("warn", ["warn", "error", "fatal"]),
        ("error", ["error", "fatal"]),
        ("panic", ["fatal"]),
        ("fatal", ["fatal"]),
    ],
)
def test_lines_below_the_level_are_not_written(
    tmp_path: Path, level: str, expected: list[str]
) -> None:
    path = tmp_path / "log"
    lines = written(path, Config(log_level=level, log_outputs=(str(path),)))
    assert [json.loads(line)["level"] for line in lines] == expected
    assert level in LEVELS


def test_an_exception_becomes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    setup_logging(Config(log_outputs=(str(path),)))
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("failed")
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["error"] == "first\nsecond"
    assert "test_log.py" in json.loads(line)["stacktrace"]


def test_a_field_cannot_replace_a_part_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    setup_logging(Config(log_outputs=(str(path),)))
    log.warning("true message", extra={"msg_": 1, "level": "fake", "path": Path("x")})
    line = json.loads(path.read_text())
    assert (line["level"], line["msg"], line["path"]) == ("warn", "true message", "x")


def test_every_output_gets_every_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("a", "b")]
    setup_logging(Config(log_outputs=(*files, "stdout", "stderr")))
    log.info("hello")
    lines = [Path(file).read_text() for file in files]
    captured = capfd.readouterr()
    assert len({*lines, captured.out, captured.err}) == 1
    assert json.loads(lines[0])["msg"] == "hello"


def test_an_output_that_cannot_be_opened_is_named_and_changes_nothing(tmp_path: Path) -> None:
    good, bad = tmp_path / "log", tmp_path / "no" / "log"
    setup_logging(Config(log_outputs=(str(good),)))
    with pytest.raises(ConfigError) as raised:
        setup_logging(Config(log_outputs=(str(bad),)))
    assert str(raised.value) == (
        f'--log-outputs: couldn\'t open sink "{bad}": open {bad}: No such file or directory'
    )
    log.info("still here")
    assert "still here" in good.read_text()
