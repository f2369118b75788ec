"""Secrets never reach a file or a screen: names of variables stand in place of what these hold.

Keys of accounts are values of variables already. Passwords and signatures that stand in a URL become values of
variables of ours (`DRESS_SECRET_…`), which further processes inherit, when settings are checked; they are put back
at the moment when the URL is opened.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
SHORTEST_SECRET = 8
"""Shorter values of such variables are words like `true`, and occur everywhere."""
OURS = "DRESS_SECRET_"
SHORTEST_OF_OURS = 4

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"|]+")
_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*:)([^\s/]*)(?=@)|(?<=://)([^\s/@:]*:)(?!\d+/)([^\s@]+)(?=@)")
_USER = re.compile(r"(?<=://)()([^\s/@:]{20,})(?=@)")
_QUERY = re.compile(
    r"([?&;#](?:[^=&;#\s]*(?:signature|token|key|secret|passw|credential|auth)[^=&;#\s]*|sig|pwd)=)([^&;#\s]+)", re.I
)
_HIDDEN = re.compile(rf"<({OURS}[0-9A-F]{{8}})>")


def redacted(plain: Any, *names: str) -> Any:
    """The same data without the values of environment variables that are secret, and without secrets in URLs.

    Args:
        plain: strings, or dicts and lists of them; other values stay.
        names: of variables that are secret whatever they are called and however short their value is.
    """
    return substitute(hide(plain), secrets(*names))


def secrets(*names: str) -> dict[str, str]:
    """Secret value to what stands in its place."""
    by_value = {
        value.strip(): f"<{name}>"
        for name, value in os.environ.items()
        if SECRET_NAME.search(name.upper())
        and len(value) >= (SHORTEST_OF_OURS if name.startswith(OURS) else SHORTEST_SECRET)
    }
    return by_value | {value: f"<{name}>" for name in names if (value := os.environ.get(name, "").strip())}


def substitute(plain: Any, names: Mapping[str, str]) -> Any:
    """The same data with every text in `names` replaced by its name."""

    def public(text: str) -> str:
        for value, name in names.items():
            text = text.replace(value, name)
        return text

    return _each_text(plain, public)


def hide(plain: Any) -> Any:
    """The same data with the passwords and signatures in its URLs replaced by names of variables that hold them now."""
    return _each_text(plain, lambda text: _URL.sub(lambda url: _hide_url(url[0]), text) if "://" in text else text)


def reveal(url: str) -> str:
    """A URL as it was before `hide`.

    Raises:
        ValueError: the process that knew the secret has ended; says what to set.
    """

    def value(name: re.Match[str]) -> str:
        if name[1] not in os.environ:
            raise ValueError(
                f"{url}: a secret of this URL stands in no file. Set the environment variable {name[1]} to it"
            )
        return os.environ[name[1]]

    return _HIDDEN.sub(value, url)


def _hide_url(url: str) -> str:
    hidden: list[str] = []

    def cut(match: re.Match[str]) -> str:
        before, secret = [part for part in match.groups() if part is not None]
        if not secret or _HIDDEN.fullmatch(secret):
            return match[0]
        hidden.append(secret)
        return f"{before}<{len(hidden) - 1}>"

    public = _QUERY.sub(cut, _USER.sub(cut, _PASSWORD.sub(cut, url)))
    # Named by what is no secret: the same URL has the same names in every process.
    stem = hashlib.sha256(public.encode("utf-8", "replace")).hexdigest()[:6].upper()
    for number, secret in enumerate(hidden):
        name = f"{OURS}{stem}{number:02X}"
        os.environ[name] = secret
        public = public.replace(f"<{number}>", f"<{name}>")
    return public


def _each_text(plain: Any, change: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _each_text(value, change) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_each_text(value, change) for value in plain]
    return change(plain) if isinstance(plain, str) else plain
