"""Write docs/cli.md and docs/config.md from the code that they describe.

python docs/generate.py            writes them
python docs/generate.py --check    fails when they are not current
"""  # noqa: INP001 - a script, no package

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from gpucluster.algorithms import catalogue
from gpucluster.cli import main
from gpucluster.cli.exits import MEANINGS
from gpucluster.definition import definition_schema
from gpucluster.dialects import LIFTED

HERE = Path(__file__).parent
WIDTH = 96
NOTE = "<!-- Written by docs/generate.py. Do not edit. -->\n"

CLI = """# The command line

Data go to stdout, talk goes to stderr. With `--json` the answer is one JSON object, and so is an
error: `{"error": {"code", "message", "hint", "retryable"}}`.

A definition in a file, and one that is an INPUT, names its inputs in `collection_ids`; paths are
relative to the folder of the file, or to the working folder when it comes from stdin. An INPUT
on the command line goes before them.

The first Ctrl-C (or SIGTERM) ends the command after the work at hand, and finished stages are
kept: the same command resumes. The second one ends it at once, which loses no finished stage
either.
"""

CONFIG = """# The definition

What a run does is a definition: a JSON, YAML or TOML file (in TOML also the table
`[tool.gpucluster]`), the keywords of `gpucluster.cluster`, or flags of the command line. Every
setting has a default, and what is unknown is refused. `gpucluster config show --origin` says what
would be used and who set it; `gpucluster config schema` prints the JSON Schema.
"""


def cli_page() -> str:
    """Return the help of every command."""
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in MEANINGS.items())
    parts = [NOTE + CLI, f"| exit code | meaning |\n| --- | --- |\n{codes}"]
    for path, command in commands(main, ("gpucluster",)):
        context = click.Context(
            command, info_name=" ".join(path), terminal_width=WIDTH, max_content_width=WIDTH
        )
        parts.append(f"## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield a command and those below it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(inner, (*path, name))


def config_page() -> str:
    """Return every setting with its type, default, range and description."""
    schema = definition_schema()
    parts = [NOTE + CONFIG]
    for title, section in sections(schema, schema["$defs"], "", []):
        about = section["description"].split("\n\n")[0].replace("\n", " ").replace(":math:", "")
        required = section.get("required", ())
        rows = [row(name, part, name in required) for name, part in section["properties"].items()]
        heading = f"## {title}" if title else "## The top level"
        parts.append(f"{heading}\n\n{about}\n\n{markdown(rows)}")
    others = [f"`{name}` for `{target}`" for name, target in LIFTED.items() if name != target]
    others += [
        f"`{alias}` for `{name}` of {algorithm}"
        for algorithm, kind in catalogue().items()
        for alias, name in kind.aliases.items()
    ]
    parts.append(
        "## Other names\n\nThe settings of `vector_config` may also stand at the top level. "
        f"Accepted as well: {', '.join(others)}, `source_collection_ids` for `collection_ids`.\n"
    )
    return "\n".join(parts)


def sections(
    part: dict[str, Any], defs: dict[str, Any], path: str, seen: list[Any]
) -> Iterator[tuple[str, Any]]:
    """Yield every object with settings once, and where it stands first."""
    seen.append(part)
    yield path, part
    for name, inner in part["properties"].items():
        place = f"{path}.{name}" if path else name
        for choice in choices(inner):
            item = choice.get("items", choice)
            for variant in map(lambda v: resolved(v, defs), choices(item)):  # noqa: C417
                if "properties" in variant and variant not in seen:
                    yield from sections(variant, defs, place + which(variant, name), seen)


def choices(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a value."""
    return part.get("anyOf") or part.get("oneOf") or [part]


def resolved(part: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    return defs[part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def which(variant: dict[str, Any], name: str) -> str:
    """Return what tells a step or an algorithm from the others."""
    if name == "algorithm_params":
        return f" of {variant['title']}"
    method = variant["properties"].get("method", {}).get("const")
    return f": {method}" if method else ""


def row(name: str, part: dict[str, Any], required: bool) -> tuple[str, ...]:  # noqa: FBT001
    """Describe one setting."""
    kinds = [kind(choice) for choice in choices(part) if choice.get("type") != "null"]
    nullable = len(kinds) < len(choices(part))
    ranges = [limits(choice) for choice in choices(part)]
    default = "required" if required else "its defaults"
    if "default" in part:
        default = f"`{json.dumps(part['default'])}`"
    elif part.get("type") == "object":
        default = "`{}`"
    return (
        f"`{name}`",
        " or ".join(dict.fromkeys(kinds)) + (" or null" if nullable else ""),
        default,
        ", ".join(filter(None, ranges)),
        part.get("description", ""),
    )


def kind(part: dict[str, Any]) -> str:
    """Name a type."""
    if "enum" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if part.get("type") == "array":
        return f"list of {' or '.join(dict.fromkeys(map(kind, choices(part['items']))))}s"
    if "$ref" in part:
        return "any value" if part["$ref"].endswith("/JsonValue") else "object"
    name = str(part.get("type", "any value"))
    return "text" if name == "string" else name


def limits(part: dict[str, Any]) -> str:
    """Return the range of a number, or of a length."""
    signs = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minItems": "length ≥",
        "minLength": "length ≥",
    }
    return ", ".join(f"{sign} {part[key]}" for key, sign in signs.items() if key in part)


def markdown(rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table."""
    head = ("setting", "type", "default", "range", "what")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines
    )


def generate(*, check: bool) -> int:
    """Write the pages, or return 1 when they differ from what would be written."""
    stale = False
    for name, text in (("cli.md", cli_page()), ("config.md", config_page())):
        page = HERE / name
        if check:
            stale |= not page.exists() or page.read_text(encoding="utf-8") != text
        else:
            page.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(generate(check="--check" in sys.argv[1:]))
