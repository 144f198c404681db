"""What a command line asks for: inputs, definition, device and columns, and who said so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from gpucluster.api import DEFAULT_OUT
from gpucluster.cli.changes import NO_STEPS, Changes, usage_error
from gpucluster.device.select import DeviceRequest
from gpucluster.dialects import DEFINITION_SUFFIXES, read_body
from gpucluster.notation import parse_body
from gpucluster.places import place
from gpucluster.types import DisplayMethod, ExecutorName, StorageRequest

if TYPE_CHECKING:
    from gpucluster.definition import ClusterDefinition

COLUMNS = ("id_column", "vector_column", "text_column", "truth_column")
STDIN = "-"

_Option = Callable[[Any], Any]

_column_options: tuple[_Option, ...] = tuple(
    click.option(f"--{role}-column", metavar="NAME", help=text)
    for role, text in (
        ("id", "Column of document ids. Default: found by its name, else row numbers."),
        ("vector", "Column of vectors. Default: the only one that may be it."),
        ("text", "Column of texts, for the examples in the table."),
        ("truth", "Column of true classes, to compare the clusters with."),
    )
)

_options: tuple[_Option, ...] = (
    click.argument("inputs", nargs=-1, metavar="[INPUT]..."),
    click.option(
        "--config", metavar="FILE", help="Definition in JSON, YAML or TOML; - reads stdin."
    ),
    click.option(
        "--feature",
        multiple=True,
        metavar="URI",
        help="Feature of the collections, instead of the definition's; several are joined.",
    ),
    click.option(
        "--algorithm", metavar="NAME", help="kmeans, hdbscan, dbscan ... Default: by the data."
    ),
    click.option(
        "--param", multiple=True, metavar="K=V", help="Parameter of the algorithm; repeatable."
    ),
    click.option(
        "--steps",
        metavar="A,B",
        help=f"Preparation, in order: whitening, umap, pca ...; {NO_STEPS} for none.",
    ),
    click.option(
        "--step-param",
        multiple=True,
        metavar="STEP.K=V",
        help="Parameter of a step, as umap.n_components=15; repeatable.",
    ),
    click.option(
        "--filter",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Only rows that match, instead of the definition's; or a JSON object of conditions. "
        "Of several, all hold.",
    ),
    click.option(
        "--map",
        type=click.Choice(get_args(DisplayMethod)),
        help="Coordinates for pictures, by this method. Default: none.",
    ),
    click.option("--hierarchical", is_flag=True, default=None, help="Divide clusters further."),
    click.option("--sample-size", type=int, metavar="N", help="Cluster this many rows only."),
    click.option("--random-state", type=int, metavar="N", help="Seed of every stage."),
    click.option(
        "--device",
        type=click.Choice(get_args(DeviceRequest)),
        default="auto",
        show_default=True,
        help="gpu never falls back; auto may, and says so.",
    ),
    click.option(
        "--storage",
        type=click.Choice(get_args(StorageRequest)),
        default="auto",
        show_default=True,
        help="Where matrices of all rows lie; auto: in memory, or on the disk of --out where that "
        "is too little. The result is the same.",
    ),
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Plan with so much memory, as 6GB. Default: all that is free.",
    ),
    click.option(
        "--executor",
        type=click.Choice(get_args(ExecutorName)),
        default="local",
        show_default=True,
        help="dask: the workers of a Dask cluster work on the rows too. The result is the same.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Of a Dask cluster that sees --out, as tcp://127.0.0.1:8786. Default: one on this "
        "machine, for as long as the run takes.",
    ),
    click.option(
        "--workers",
        "n_workers",
        type=int,
        metavar="N",
        help="Of the Dask cluster on this machine. Default: one for each 8 cores.",
    ),
    *_column_options,
    click.option(
        "--out",
        metavar="DIR",
        default=DEFAULT_OUT,
        show_default=True,
        help="Folder of the runs; also as s3://bucket/folder, gs:// or az://.",
    ),
    click.option("--fresh", is_flag=True, help="Compute everything anew, as another run."),
    click.option(
        "--previous",
        metavar="RUN",
        default="auto",
        show_default=True,
        help="Run whose clusters are followed, for stable ids; auto is the latest of this "
        f"definition in --out, {NO_STEPS} follows none.",
    ),
)


def column_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name columns."""
    return _add(_column_options, command)


def row_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name columns of rows without a truth."""
    return _add(_column_options[:-1], command)


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the inputs and options that say what to do."""
    return _add(_options, command)


def _add(options: tuple[_Option, ...], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes
    ----------
    inputs : tuple of str
        Paths, globs or folders.
    definition : ClusterDefinition
        Of the file, changed by environment and flags.
    device : {"auto", "cpu", "gpu"}
    storage : {"auto", "memory", "disk"}
    memory_limit : str or None
    executor : {"local", "dask"}
    scheduler : str or None
    n_workers : int or None
    columns : dict of str to str or None
        Names by `COLUMNS`.
    out : str
        Folder of the runs.
    fresh : bool
        Whether to compute everything anew.
    previous : str or None
        Path of the run that is followed, or ``auto``.
    origins : dict of str to str
        Who set a setting of the definition, by its dotted path: a flag, a variable of the
        environment or a file.
    """

    inputs: tuple[str, ...]
    definition: ClusterDefinition
    device: DeviceRequest
    storage: StorageRequest
    memory_limit: str | None
    executor: ExecutorName
    scheduler: str | None
    n_workers: int | None
    columns: Mapping[str, str | None]
    out: str
    fresh: bool
    previous: str | None
    origins: Mapping[str, str]

    @property
    def data(self) -> str | list[str]:
        """The inputs as `gpucluster.api` takes them.

        Raises
        ------
        click.UsageError
            There are none.
        """
        if not self.inputs:
            raise usage_error("missing INPUT: name a file, or a definition with collection_ids")
        return self.inputs[0] if len(self.inputs) == 1 else list(self.inputs)


def read_request(options: Mapping[str, Any]) -> Request:
    """Make sense of the values of `request_options`.

    A single INPUT with the suffix of a definition is the definition. Without other inputs
    its ``collection_ids`` are read, relative to the folder of its file.

    Raises
    ------
    ConfigError
        The definition is wrong.
    click.UsageError
        An option is.
    """
    from gpucluster.definition import ClusterDefinition
    from gpucluster.sources import is_manifest

    inputs: Sequence[str] = options["inputs"]
    config: str | None = options["config"]
    is_definition = len(inputs) == 1 and Path(inputs[0]).suffix in DEFINITION_SUFFIXES
    if is_definition and not is_manifest(inputs[0]):
        if config is not None:
            raise usage_error(f"both {inputs[0]} and --config {config} are definitions")
        config, inputs = inputs[0], ()
    written = ClusterDefinition.parse(_read_config(config))
    changes = Changes(written, options)
    definition = ClusterDefinition.parse(written, **changes.fields)
    file = "stdin" if config == STDIN else str(config)
    return Request(
        inputs=tuple(inputs) or _beside(config, definition.collection_ids),
        definition=definition,
        device=options["device"],
        storage=options["storage"],
        memory_limit=options["memory_limit"],
        executor=options["executor"],
        scheduler=options["scheduler"],
        n_workers=options["n_workers"],
        columns={name: options[name] for name in COLUMNS},
        out=options["out"],
        fresh=options["fresh"],
        previous=None if options["previous"] == NO_STEPS else options["previous"],
        origins=dict.fromkeys(changes.kept(written), file) | changes.changed(definition),
    )


def _read_config(config: str | None) -> Any:
    if config is None:
        return None
    if config == STDIN:
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
        return parse_body(text, "stdin")
    return read_body(config)


def _beside(config: str | None, names: Iterable[str]) -> tuple[str, ...]:
    """Return the inputs that a definition names, relative to its folder; URLs as they are."""
    folder = Path() if config in {None, STDIN} else place(str(config)).parent
    return tuple(name if "://" in name else str(folder / name) for name in names)
