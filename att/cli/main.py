"""The command ``att-server``."""

import asyncio
import os
import signal
import sys
from typing import Any

import click
import uvloop

from att import __version__
from att.cli.admin_commands import create_admin, migrate, reset_password
from att.cli.client_commands import broadcast, listen
from att.cli.doctor.check import check
from att.cli.explain import why
from att.cli.serve import serve
from att.config.options import PREFIX, check_apart, make_settings, serving_options
from att.core.process import allow_many_files
from att.errors import AttError
from att.server.logging import set_up_logging

_EXAMPLES = """\b
Examples:
  att-server                                            on the embedded PostgreSQL
  att-server --db-url postgresql://me@localhost/mine    on your own
  att-server --listen :8080 --data-dir /srv/att         for the whole network
  att-server create-admin ann                           make ann an administrator
  att-server why ann tea                                explain whether ann hears the group tea
  att-server listen --login ann                         hear what is broadcast to ann's groups
"""


@click.group(
    context_settings={"auto_envvar_prefix": PREFIX, "show_default": True, "max_content_width": 100},
    epilog=_EXAMPLES,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
)
@serving_options
@click.version_option(__version__, prog_name="att-server", allow_from_autoenv=False)
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Serve accounts, groups and broadcasts from PostgreSQL.

    Every option can also be set in the environment: --db-url as ATT_DB_URL, and so on.
    """
    context.obj = settings = check_apart(make_settings(**options))
    set_up_logging(settings.log_format)
    _fill_standard_streams()
    if context.invoked_subcommand is not None:
        return
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


command.add_command(create_admin)
command.add_command(reset_password)
command.add_command(migrate)
command.add_command(check)
command.add_command(listen)
command.add_command(broadcast)
command.add_command(why)


def main() -> None:
    """Run the command; whatever goes wrong on the way is one line on stderr, and a status that is not 0."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except AttError as error:
        _fail(error.why, 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _fill_standard_streams() -> None:
    """A stream that was closed must not become one of our sockets."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _fail(message: str, status: int) -> None:
    click.echo(f"att-server: {message}", err=True)
    sys.exit(status)
