"""The command ``att-server``."""

import gc
import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

from att import __version__
from att.cli.runner import run
from att.config.options import PREFIX, check_apart, make_settings, serving_options
from att.core.process import allow_many_files
from att.errors import AttError

_EXAMPLES = """\b
Examples:
  att-server                                            on the embedded PostgreSQL
  att-server --db-url postgresql://me@localhost/mine    on your own
  att-server --listen :8080 --data-dir /srv/att         for the whole network
  att-server create-admin ann                           make ann an administrator
  att-server why ann tea                                explain whether ann receives events of the group tea
  att-server listen --login ann                         print what is broadcast to ann's groups
"""

_SUB_COMMANDS = {
    "broadcast": "att.cli.client_commands:broadcast",
    "check": "att.cli.doctor.check:check",
    "create-admin": "att.cli.admin_commands:create_admin",
    "listen": "att.cli.client_commands:listen",
    "migrate": "att.cli.admin_commands:migrate",
    "reset-password": "att.cli.admin_commands:reset_password",
    "why": "att.cli.explain:why",
}


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*_SUB_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        return _load(_SUB_COMMANDS[cmd_name]) if cmd_name in _SUB_COMMANDS else None


def _load(place: str) -> Any:
    """Import ``module:attribute``. Meanwhile Ctrl-C ends the process at once, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # what is imported stays; looking for garbage in it takes an eighth of the time
    module, _, attribute = place.partition(":")
    loaded = getattr(import_module(module), attribute)
    gc.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return loaded


@click.group(
    cls=LazyGroup,
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
    _fill_standard_streams()
    if context.invoked_subcommand is not None:
        return
    allow_many_files()
    run(_load("att.cli.serve:serve")(settings))


def main() -> None:
    """Run the command. An error is one line on stderr and an exit code other than 0."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()) + _hint(error), error.exit_code)
    except AttError as error:
        _fail(error.why, 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _hint(error: click.ClickException) -> str:
    """Return where to read which options and commands there are, if one was used that does not exist."""
    if not isinstance(error, click.UsageError) or isinstance(error, click.BadParameter) or error.ctx is None:
        return ""
    return f"{'' if error.message[-1] in '.?' else '.'} See '{error.ctx.command_path} --help'."


def _fill_standard_streams() -> None:
    """Open closed standard streams on /dev/null, so that no socket gets their descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one


def _fail(message: str, status: int) -> None:
    click.echo(f"att-server: {message}", err=True)
    sys.exit(status)
