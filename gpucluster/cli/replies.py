"""``gpucluster replies``: what models have answered, as it is kept beside runs."""

from __future__ import annotations

import click

from gpucluster.cli.render import amount, table
from gpucluster.cli.voice import SETTINGS, Voice, speaking


@click.command(context_settings=SETTINGS)
@click.argument("folder", metavar="DIR")
@click.option(
    "--empty", is_flag=True, help="Forget all but those that an unfinished labelling needs."
)
@speaking
def replies(voice: Voice, *, folder: str, empty: bool) -> None:
    """Show, or forget, the replies of models that are kept beside runs.

    DIR is the folder that holds runs, or one of them. Names stay as they are: replies only save
    that the same is asked and paid again.

    \b
    gpucluster replies gpucluster-out
    gpucluster replies gpucluster-out --empty
    """
    from gpucluster.naming.replies import replies

    found = replies(folder, empty=empty)
    kept = found.kept
    record = {
        "path": str(found.path),
        "replies": kept.replies,
        "bytes": kept.bytes,
        "needed": kept.needed,
        "most_bytes": found.most_bytes,
    }

    def megabytes(count: int) -> str:
        return f"{amount(round(count / 1e6, 1))} MB"

    rows = [
        ("file", str(found.path)),
        ("replies", amount(kept.replies)),
        ("needed by unfinished labellings", amount(kept.needed)),
        ("size", f"{megabytes(kept.bytes)} of at most {megabytes(found.most_bytes)}"),
    ]
    voice.answer(record, lambda: table(rows))
