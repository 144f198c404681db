"""How fast this machine is, beside the one on which the costs of stages were measured.

`measure` takes seconds and is asked for by hand; what it finds is kept for this kind of machine,
and predictions follow it.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from gpucluster.device.cores import n_threads
from gpucluster.errors import PermissionRefusedError, StoreError
from gpucluster.places import state_folder

ROWS, WIDTH, CENTERS = 8192, 768, 1024
COPY_BYTES = 128 << 20  # larger than any cache
DISK_BYTES = 512 << 20
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does in a second.

    Attributes
    ----------
    product_flop : float
        Float32 products of rows and centres, on all cores.
    copied_bytes : float
        Of rows that are read and written in memory, on one core.
    disk_read_bytes, disk_written_bytes : float
        Of a file, past the memory of the system. Predictions know what is read.
    measured_at : str or None
        When; None: of the machine that the costs were measured on.
    """

    product_flop: float
    copied_bytes: float
    disk_read_bytes: float
    disk_written_bytes: float
    measured_at: str | None = None

    def slower(self, stage: str) -> float:
        """Return how many times as long a stage takes here as where its cost was measured."""
        if stage in {"load", "write"}:
            return REFERENCE.copied_bytes / self.copied_bytes
        return REFERENCE.product_flop / self.product_flop


# of two cores of an AMD EPYC, with OpenBLAS's kernels for AVX-512 and a local disk
REFERENCE = Rates(
    product_flop=420e9, copied_bytes=21e9, disk_read_bytes=3.3e9, disk_written_bytes=0.9e9
)


def rates_file() -> Path:
    """Return where rates are kept: below ``GPUCLUSTER_STATE_DIR``, or the user's state."""
    return state_folder() / "rates.json"


def machine_kind() -> str:
    """Return what tells machines apart that share a home: processor, and cores that may be used."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{' '.join(model.split())}, {n_threads()} cores"


def known_rates() -> Rates:
    """Return the rates of this kind of machine, or `REFERENCE` where they were never measured."""
    try:
        found = json.loads(rates_file().read_text(encoding="utf-8"))[machine_kind()]
        rates = Rates(**found)
        is_sound = all(value > 0 for value in asdict(rates).values() if not isinstance(value, str))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return REFERENCE
    return rates if is_sound else REFERENCE


def calibrate(folder: Path) -> Rates:
    """Measure this machine and keep the rates.

    Parameters
    ----------
    folder : Path
        On the disk that runs are written to.

    Returns
    -------
    Rates

    Raises
    ------
    StoreError, PermissionRefusedError
        A file cannot be written: in `folder`, or where rates are kept.
    """
    read, written = _disk(folder)
    rates = Rates(
        product_flop=_products(),
        copied_bytes=_copies(),
        disk_read_bytes=read,
        disk_written_bytes=written,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = rates_file()
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):
        kept = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(kept | {machine_kind(): asdict(rates)}, indent=1) + "\n")
        new.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    return rates


def _products() -> float:
    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, WIDTH), np.float32)
    centers = rng.standard_normal((CENTERS, WIDTH), np.float32).T.copy()
    return 2.0 * ROWS * WIDTH * CENTERS / _seconds(lambda: X @ centers)


def _copies() -> float:
    import numpy as np

    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    return COPY_BYTES / _seconds(lambda: np.multiply(source, np.float32(2), out=target))


def _disk(folder: Path) -> tuple[float, float]:
    """Return bytes a second that are read and written, past the memory of the system."""
    block = os.urandom(1 << 20) * 16  # no run of zeros, which some disks do not store
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            begun = time.perf_counter()
            for _ in range(DISK_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = DISK_BYTES / (time.perf_counter() - begun)
            if hasattr(os, "posix_fadvise"):  # forget the pages
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            begun = time.perf_counter()
            while file.read(len(block)):
                pass
            read = DISK_BYTES / (time.perf_counter() - begun)
    except OSError as error:
        raise _refused(folder, error) from error
    return read, written


def _seconds(work: Callable[[], object]) -> float:
    work()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return median(found)


def _refused(path: Path, error: OSError) -> StoreError:
    kind = PermissionRefusedError if isinstance(error, PermissionError) else StoreError
    return kind(
        f"{path} cannot be written: {error.strerror or error}",
        hint="name another folder: --out for the disk, GPUCLUSTER_STATE_DIR for the rates",
    )
