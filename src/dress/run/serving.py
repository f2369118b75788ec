"""`dress serve RUN`: a trained model behind the interface of OpenAI's servers, on this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from dress.base.errors import ConfigError
from dress.base.terminal import Terminal
from dress.config import check_as
from dress.config.commands import Loading, ServeCommand
from dress.llm.keys import api_key
from dress.run.settings_page import listed
from dress.run.words import words_and_settings

HELP = """Serve a trained model: any client of OpenAI's interface can ask it, with an image as a data URI.

  dress serve logs/latest                              http://127.0.0.1:8000/v1
  dress serve models/mine port=8001 name=mine          an exported folder, or any other of transformers
  dress ask http://127.0.0.1:8000/v1 picture.png "What is here?" model=NAME

NAME is asked as its training asks; NAME:none, NAME:praise, … under the named condition. Ctrl-C ends it. Settings
(key=default  what it is; what may stand there):

"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
GOODBYE = 2
"""Seconds that clients have once it is to end."""


def serve(typed: Sequence[str]) -> None:
    """Serve until told to end.

    Args:
        typed: a run or a model's folder, and settings.

    Raises:
        ValueError, OSError: a setting or model that does not fit, or the port is taken.
    """
    if {"-h", "--help"} & set(typed):
        print(HELP + listed(ServeCommand))
        return
    words, values = words_and_settings(typed, ServeCommand)
    if len(words) != 1:
        raise ConfigError(f"serve: expected a run or a model's folder, got {words}")
    settings = check_as(ServeCommand, values)
    if settings.host not in LOOPBACK and settings.api_key_env is None:
        raise ConfigError(
            f"host={settings.host}: others reach it there, so it needs a key: api_key_env=VARIABLE (a variable that "
            f"holds it), or leave host as it is"
        )
    key = None if settings.api_key_env is None else api_key(settings.api_key_env, "this server")
    listener = listen(settings.host, settings.port)

    import uvicorn

    from dress.rollout.loading import load
    from dress.serving.app import create_app
    from dress.serving.engine import Engine

    model = load(words[0], **settings.model_dump(include=set(Loading.model_fields)))
    if settings.max_new_tokens is not None:
        model.max_new_tokens = settings.max_new_tokens
    engine = Engine(model)
    name = settings.name or model.responder.name
    console = Terminal(soft_wrap=True)
    address = f"http://{settings.host}:{listener.getsockname()[1]}/v1"
    console.print(f"{name} at {address}, conditions: {', '.join(model.conditions)}; Ctrl-C ends it", highlight=False)
    app = create_app(engine, name, words[0], key)
    options = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GOODBYE, server_header=False)
    try:
        uvicorn.Server(options).run([listener])
    finally:
        engine.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; 0 is any free port.

    Raises:
        ConfigError: the port is taken, or the host is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"port={port}: cannot listen at {host}:{port} ({error.strerror}); port=0 takes any that is free"
        ) from None
