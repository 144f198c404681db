"""What goes wrong with a bucket, in Python's own words.

Nothing that obstore says is passed on: it may hold addresses that are signed.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

KEYS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
ENDPOINTS: Final = {
    "s3": "AWS_ENDPOINT_URL and AWS_REGION, and AWS_ALLOW_HTTP for one without TLS",
    "gs": "GOOGLE_BASE_URL",
    "az": "AZURE_STORAGE_ENDPOINT",
}
NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
# what is asked for credentials where no variable has them, and says that there are none
NOBODY = ("169.254.", "/latest/api/token", "/latest/meta-data", "token request", "MissingAccount")


class Changed(OSError):  # noqa: N818 - an answer, which its asker expects
    """An object is not what it was when it was last looked at."""


class Unsure(OSError):  # noqa: N818 - like `Changed`, it stays in the house
    """No answer came, or one of a server that fails: the request may have been carried out."""


@contextmanager
def plainly(where: str) -> Iterator[None]:
    """Raise what obstore raises about the address `where` as an `OSError`.

    Raises
    ------
    FileNotFoundError, FileExistsError, PermissionError
        As of a file.
    Changed, Unsure
        See there.
    OSError
        Anything else.
    """
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotModifiedError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    found: OSError
    try:
        yield
    except AlreadyExistsError:
        found = FileExistsError(errno.EEXIST, "it is there already", where)
    except (PreconditionError, NotModifiedError):
        found = Changed(errno.ESTALE, "it has changed meanwhile", where)
    except (PermissionDeniedError, UnauthenticatedError) as error:
        found = _denied(where, str(error))
    except FileNotFoundError as error:
        found = _missing(where, str(error))
    except NotImplementedError:
        found = OSError(errno.ENOTSUP, "conditional writes are switched off", where)
    except OSError as error:  # of the own disk
        if isinstance(error, Changed | Unsure) or error.errno is not None:
            raise
        found = _other(where, str(error))
    except BaseError as error:
        found = _other(where, str(error))
    except (ValueError, TypeError):
        found = OSError(errno.EINVAL, f"no request can be made; look at {_settings(where)}", where)
    else:
        return
    raise found from None


def _scheme(where: str) -> str:
    return where.partition("://")[0]


def _settings(where: str) -> str:
    return ENDPOINTS[_scheme(where)]


def _code(text: str) -> str:
    """Return what the service calls the error: a status, a word, or both."""
    status = re.search(r"status code: (\d{3})", text)
    word = re.search(r"<Code>(\w{1,60})</Code>", text)
    return " ".join(match[1] for match in (status, word) if match)


def _missing(where: str, text: str) -> FileNotFoundError:
    no_bucket = any(word in text for word in NO_BUCKET)
    what = "there is no such bucket" if no_bucket else "there is no such object"
    return FileNotFoundError(errno.ENOENT, what, where)


def _denied(where: str, text: str) -> PermissionError:
    scheme = _scheme(where)
    return PermissionError(
        errno.EACCES,
        f"access is denied ({_code(text) or 'not authenticated'}); look at {KEYS[scheme]}",
        where,
    )


def _is_late(scheme: str, text: str) -> bool:
    """Whether a request was ended by the limit on its time, which a variable sets on S3."""
    return scheme == "s3" and "kind: Timeout" in text


def _other(where: str, text: str) -> OSError:
    scheme, code = _scheme(where), _code(text)
    if any(word in text for word in NO_BUCKET):
        found: OSError = _missing(where, text)
    elif any(word in text for word in NOBODY):
        found = PermissionError(errno.EACCES, f"no credentials; set {KEYS[scheme]}", where)
    elif code[:3] in {"401", "403"}:
        found = _denied(where, text)
    elif code[:1] == "5" or code[:3] in {"408", "429"}:
        found = Unsure(errno.EIO, f"the service fails ({code})", where)
    elif code:
        found = OSError(errno.EIO, f"the service refuses the request ({code})", where)
    elif "builder error" in text:
        found = OSError(errno.EINVAL, f"no request can be made; look at {_settings(where)}", where)
    else:
        late = " in time; a slow line needs AWS_TIMEOUT=300s" if _is_late(scheme, text) else ""
        what = f"the service does not answer{late}; look at {_settings(where)}"
        found = Unsure(errno.EHOSTUNREACH, what, where)
    return found
