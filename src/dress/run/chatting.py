"""`python src/chat.py responder=RUN`: a page to talk to a model and to teach it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dress.base import processes
from dress.base.errors import ConfigError
from dress.base.run_folder import lock, unlock
from dress.base.terminal import Terminal
from dress.config import check_as
from dress.config.commands import ChatCommand
from dress.run.serving import GOODBYE, listen
from dress.run.settings_page import listed
from dress.run.words import words_and_settings

HELP = """Talk to a model in the browser, and say what is good and bad about its answers: what is said becomes shards.

  python src/chat.py responder=logs/latest                              http://127.0.0.1:7860
  python src/chat.py responder=logs/latest vs=models/mine blind=true    two side by side, without their names
  python src/chat.py responder=http://127.0.0.1:8000/v1 model=NAME      a server
  python src/chat.py responder=logs/latest queue=prompts                go through questions, with the keyboard
  python src/chat.py queue=data/feedback                                rate answers that are there

out=DIR holds what was said (feedback.jsonl) and shards that `data.feedback=DIR` trains on (docs/chat.md). Settings
(key=default  what it is; what may stand there):

"""


def chat(typed: Sequence[str]) -> None:
    """Serve the page until told to end; then write the shards a last time.

    Args:
        typed: settings.

    Raises:
        ValueError, OSError: a setting, responder or queue that does not fit, another page writes `out`, or the port is
            taken.
    """
    if {"-h", "--help"} & set(typed):
        print(HELP + listed(ChatCommand))
        return
    words, values = words_and_settings(typed, ChatCommand)
    settings = check_as(ChatCommand, values)
    if words:
        raise ConfigError(f"chat: expected settings (responder={words[0]}), got {words}")
    if settings.responder is None and settings.queue is None:
        raise ConfigError("responder: expected a run folder, a model's folder or a server's address, got none")
    if settings.responder is None and settings.vs is not None:
        raise ConfigError("vs: expected responder=… beside it, got none")
    if settings.blind and settings.vs is None:
        raise ConfigError("blind=true: expected two responders (vs=…), got one")
    listener = listen("127.0.0.1", settings.port)

    import uvicorn

    from dress.chat.app import create_app
    from dress.chat.conversations import Conversations
    from dress.chat.queue import open_queue
    from dress.chat.responders import responders

    out, console, key = Path(settings.out), Terminal(soft_wrap=True), secrets.token_urlsafe(16)
    out.mkdir(parents=True, exist_ok=True)
    lock(out)
    try:
        with ExitStack() as stack:
            processes.stop_on_signals()
            queue = open_queue(settings)
            answering = responders(settings, out, stack, console)
            conversations = stack.enter_context(Conversations(out, settings, answering, queue))
            port = listener.getsockname()[1]
            console.print(f"http://127.0.0.1:{port}/?key={key}   what is said: {out}; Ctrl-C ends it", highlight=False)
            options = uvicorn.Config(
                create_app(conversations, key, port),
                log_level="warning",
                timeout_graceful_shutdown=GOODBYE,
                server_header=False,
            )
            uvicorn.Server(options).run([listener])
    finally:
        unlock(out)
