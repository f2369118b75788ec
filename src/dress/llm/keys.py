"""Keys of servers: settings name the variable that holds one."""

from __future__ import annotations

import os


def api_key(variable: str | None, server: str) -> str:
    """The key of a server.

    Args:
        variable: that holds it; None for a server that asks for none.
        server: to be named in an error.

    Raises:
        ValueError: the variable is not set.
    """
    if variable is None:
        return "none"  # never the key of another server that happens to be set
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"api_key_env={variable}: this variable is not set. Set it to the key of {server}, "
            f"or say api_key_env=null for a server that asks for none"
        )
    return key
