"""A model that is asked a question at a time: over HTTP, or a program of the user's own.

Nothing is tried twice here; see `gpucluster.labeling.asking.patience`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Final

from gpucluster.errors import BackendUnavailableError, ConfigError
from gpucluster.labeling.model.protocol import Model
from gpucluster.labeling.settings import LabelingSettings
from gpucluster.notation import shown

INSTALL: Final = "pip install 'gpucluster[llm]'"
KEY: Final = "GPUCLUSTER_LLM_API_KEY"  # may go to any address
KEY_ENVS: Final = "GPUCLUSTER_LLM_KEY_ENVS"  # names of others that may, with commas between them
NO_KEY: Final = "none"  # for servers that need none: the header cannot be empty

_PREFIX = "GPUCLUSTER_LLM_"  # other names of ours hold tokens and addresses of the service
# they go to the provider's own address alone
_KEYS: dict[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "google": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY",),
}
_OURS = ("messages", "model", "n", "stream", "tools")  # fields that parameters may not set


def check_ready(settings: LabelingSettings) -> None:
    """Refuse settings with which no question could be asked here; asks none.

    Parameters
    ----------
    settings : LabelingSettings

    Raises
    ------
    BackendUnavailableError
        The client library is missing.
    ConfigError
        A key or the user's program is missing, the key may not be sent there, or a parameter is
        one that labelling sets.
    """
    provider = settings.labels_by
    if not settings.enabled or provider == "keywords":
        return
    if provider == "command":
        from gpucluster.labeling.model.program import command

        command()
        return
    for name in _OURS:
        if name in settings.parameters:
            raise ConfigError(
                "labelling sets this field itself", path=f"llm_labeling.parameters.{name}"
            )
    if find_spec("openai") is None or find_spec("httpx2") is None:
        raise BackendUnavailableError(
            f"provider {provider} needs the openai package, 3 or later, which is missing",
            hint=INSTALL,
        )
    find_key(settings)


def open_model(settings: LabelingSettings) -> Model:
    """Return the model that labels.

    Parameters
    ----------
    settings : LabelingSettings
        With another provider than keywords, which asks no model.

    Returns
    -------
    Model
        To be closed.

    Raises
    ------
    BackendUnavailableError, ConfigError
        As `check_ready`.
    """
    check_ready(settings)
    provider = settings.labels_by
    if provider == "keywords":
        raise ConfigError("keywords asks no model", path="llm_labeling.provider")
    if provider == "command":
        from gpucluster.labeling.model.program import Program, command

        return Program(command(), settings.timeout_s)
    from gpucluster.labeling.model.over_http import HttpModel

    return HttpModel(settings, find_key(settings))


def find_key(settings: LabelingSettings) -> str:
    """Return the key that is sent, from the environment.

    Parameters
    ----------
    settings : LabelingSettings

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        There is none, it may not be sent there, or it cannot be one.
    """
    named = settings.api_key_env
    provider = settings.labels_by
    variables = _variables(settings)
    found = next((name for name in variables if os.environ.get(name, "").strip()), None)
    if found is None:
        if provider == "openai_compatible" and not named:
            return NO_KEY
        hint = f"set {' or '.join(variables)}"
        if settings.base_url and provider in _KEYS and not named:
            hint += f"; with a base_url {' and '.join(_KEYS[provider])} are not sent"
        raise ConfigError(
            f"no key for {provider} in the environment",
            path="llm_labeling.api_key_env" if named else "llm_labeling.provider",
            hint=hint,
        )
    key = os.environ[found].strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"what {found} holds cannot be a key: it has other characters than a header takes",
            path="llm_labeling.api_key_env" if named else "llm_labeling.provider",
        )
    return key


def _variables(settings: LabelingSettings) -> tuple[str, ...]:
    """Return the variables that may hold the key.

    A definition may come from others: it must not send any secret of the environment anywhere.
    """
    own = (KEY,) if settings.base_url else _KEYS[settings.labels_by]
    named = settings.api_key_env
    if named is None:
        return own
    listed = [name.strip() for name in os.environ.get(KEY_ENVS, "").split(",")]
    if named in {*own, *listed} or named.startswith(_PREFIX):
        return (named,)
    where = settings.base_url or f"the address of {settings.labels_by}"
    raise ConfigError(
        f"{named} may not be sent to {shown(where, 80)}: a definition must not send any secret",
        path="llm_labeling.api_key_env",
        hint=f"where you trust it, list {named} in the variable {KEY_ENVS}, or put the key into "
        f"one whose name begins with {_PREFIX}",
    )
