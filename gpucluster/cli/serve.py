"""``gpucluster serve``: the REST service."""

from __future__ import annotations

from typing import Any, get_args

import click

from gpucluster.cli.voice import Voice, speaking
from gpucluster.errors import BackendUnavailableError


class _Serve(click.Command):
    """Its options are the settings of the service, read when they are first needed.

    The libraries of the service are an extra, and take longer to load than ``--help`` may.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options."""
        if not any(param.name == "root" for param in self.params):
            self.params = [*_options(), *self.params]
        return super().get_params(ctx)


@click.command(cls=_Serve, context_settings={"max_content_width": 100})
@speaking
def serve(voice: Voice, **options: Any) -> None:
    """Answer over HTTP: definitions, runs, documents, triggers, webhooks.

    Every option can also be set as GPUCLUSTER_SERVE_NAME; a token for everything that the
    operator chose only there, as GPUCLUSTER_SERVE_ADMIN_TOKEN. Without one, the first start makes
    a token and shows it once. SIGTERM ends it in order; runs go on when it is started again.

    \b
    gpucluster serve --root data
    gpucluster serve --root data --no-auth --max-jobs 2
    """
    from pydantic import ValidationError

    from gpucluster.notation import setting_error
    from gpucluster.service.server import serve as run_server
    from gpucluster.service.settings import ServiceSettings

    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        settings = ServiceSettings(**given)
    except ValidationError as error:
        raise setting_error(error, ServiceSettings) from error
    run_server(settings, voice.say, quiet=voice.quiet)


def _options() -> list[click.Option]:
    try:
        from pydantic import SecretStr

        from gpucluster.service.settings import ServiceSettings
    except ImportError as error:
        raise BackendUnavailableError(
            f"the service needs {error.name}", hint="pip install 'gpucluster[serve]'"
        ) from error

    options = []
    for name, field in ServiceSettings.model_fields.items():
        if SecretStr in get_args(field.annotation):
            continue  # a flag would show it to every user of the machine
        flag = name.replace("_", "-")
        is_switch, is_list = field.annotation is bool, field.annotation == tuple[str, ...]
        shown = "" if field.default in (None, (), True) else f" Default: {field.default}."
        options.append(
            click.Option(
                [f"--{flag}/--no-{flag}" if is_switch else f"--{flag}"],
                default=None,
                multiple=is_list,
                metavar=None if is_switch else flag.rpartition("-")[2].upper(),
                help=f"{field.description}{shown}{' Repeatable.' if is_list else ''}",
            )
        )
    return options
