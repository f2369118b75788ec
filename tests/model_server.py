"""A small OpenAI-compatible server of an exported folder, read by transformers alone, as a user might start one.

    python tests/model_server.py FOLDER PORT NAME [--WAY …]

The ways to misbehave: see `WAYS`. Nothing of DRESS is imported.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAYS = {
    "fake": "loads no model and answers with a number",
    "stubborn": "ignores SIGTERM, and has a grandchild that does so too, and one in a session of its own",
    "dies": "ends before it is healthy",
    "sick": "is never healthy",
    "renamed": "knows the model by another name",
    "other": "answers with something else than the model",
    "keyless": "refuses nobody",
    "forgetful": "answers the first eight questions only",
    "slow": "takes half a second for each answer",
}
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Model:
    """Answers greedily."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        torch.set_num_threads(1)
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, body: dict[str, Any]) -> tuple[str, str]:
        """Text, and how it ended."""
        from PIL import Image

        messages, images = [], []
        for message in body["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            content = []
            for part in parts:
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                    content.append({"type": "image"})
                else:
                    content.append(part)
            messages.append({"role": message["role"], "content": content})
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        more = {"images": images} if images else {}
        inputs = self.processor(text=text, return_tensors="pt", **more)
        out = self.model.generate(**inputs, max_new_tokens=body["max_tokens"], do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :].tolist()
        ends = self.model.generation_config.eos_token_id
        stopped = bool(new) and new[-1] in (ends if isinstance(ends, list) else [ends])
        return self.processor.tokenizer.decode(new, skip_special_tokens=True), "stop" if stopped else "length"


def handler(name: str, ways: set[str], model: Model | None) -> type[BaseHTTPRequestHandler]:
    key = os.environ["DRESS_SERVER_KEY"]
    questions: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            print(*words, flush=True)

        def reply(self, status: int, page: Any) -> None:
            content = json.dumps(page).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def admitted(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {key}" or "keyless" in ways:
                return True
            self.reply(401, {"error": {"message": "no key"}})
            return False

        def do_GET(self) -> None:
            match self.path:
                case "/health":
                    self.reply(503 if "sick" in ways else 200, {})
                case "/version":
                    self.reply(200, {"version": "1.2.3"})
                case "/v1/models" if self.admitted():
                    self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.admitted():
                return
            if body["model"] != name:
                self.reply(404, {"error": {"message": f"no model {body['model']}"}})
                return
            questions.append(body)
            if "forgetful" in ways and len(questions) > 8:
                self.reply(500, {"error": {"message": "no more"}})
                return
            if "slow" in ways and len(questions) > 8:
                time.sleep(0.5)
            text, reason = ("7", "stop") if model is None else model.answer(body)
            if "other" in ways:
                text = f"zzz {text}"
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
            page = {"id": "x", "object": "chat.completion", "created": 0, "model": name, "choices": [choice]}
            self.reply(200, page | {"usage": usage})

    return Handler


def main(folder: str, port: int, name: str, ways: set[str]) -> None:
    assert not ways - WAYS.keys(), ways
    print("environment", json.dumps(sorted(os.environ)), flush=True)
    if "stubborn" in ways:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for session in (False, True):
            subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=session)
    if "dies" in ways:
        print("out of memory, so to speak", flush=True)
        sys.exit(3)
    served = f"{name}-renamed" if "renamed" in ways else name
    model = None if "fake" in ways else Model(folder)
    ThreadingHTTPServer(("127.0.0.1", port), handler(served, ways, model)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], {word.removeprefix("--") for word in sys.argv[4:]})
