"""Log output: lines for people on a terminal, JSON for programs otherwise.

att and its libraries log through the standard library's ``logging``; structlog formats the records.
"""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from structlog.typing import EventDict, Processor

from att.config.settings import LogFormat

LEVEL = logging.INFO
_DETAIL = re.compile(r"^DETAIL: .*?(?=^CONTEXT: |^The above exception |^During handling |\Z)", re.DOTALL | re.MULTILINE)
INDENTATION = "    "  # of a traceback, so that none of its lines looks like a log record


def set_up_logging(form: LogFormat, stream: TextIO | None = None) -> None:
    """Log to standard error, or to ``stream``, unless logging is set up already."""
    stream = stream or sys.stderr
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter(form, is_terminal=stream is not None and stream.isatty()))
        root.addHandler(handler)
        root.setLevel(LEVEL)
        logging.captureWarnings(capture=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("aiohttp.server", "asyncio", "gunicorn.error"):  # aiohttp uses the last one under gunicorn
        logging.getLogger(name).addFilter(_is_ours)


def formatter(form: LogFormat, *, is_terminal: bool) -> logging.Formatter:
    """Return the formatter. A record is always one line, but for the traceback in a text log."""
    is_text = is_terminal if form is LogFormat.AUTO else form is LogFormat.TEXT
    last: list[Processor] = [_as_text, structlog.dev.ConsoleRenderer(colors=is_terminal, sort_keys=False)]
    if not is_text:
        last = [structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.format_exc_info,
            _hide_details,
            structlog.processors.StackInfoRenderer(),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _hide_details(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Remove the rows in PostgreSQL's error details, which may hold a password hash."""
    if "exception" in event:
        event["exception"] = _DETAIL.sub("DETAIL: (left out)\n", event["exception"])
    return event


def _as_text(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escape everything that a terminal would interpret."""
    blocks = {key: _indented(event.pop(key)) for key in ("exception", "stack") if key in event}
    shown = {key: value for key, value in event.items() if value is not None}
    return {key: printable(value) if isinstance(value, str) else value for key, value in shown.items()} | blocks


def _indented(text: str) -> str:
    return "\n".join(INDENTATION + printable(line) for line in text.splitlines())


def printable(text: str) -> str:
    """Return the text with unprintable characters and line ends escaped, as in Python."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Return False for errors that do not belong in the log.

    A request that is not HTTP, or is cut off, is the client's error. A statement that the server cancelled has been
    answered with 503; aiopg reports it to the event loop as well.
    """
    error = record.exc_info[1] if record.exc_info else None
    is_clients = isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)
    return not is_clients and type(error).__name__ != "QueryCanceled"
