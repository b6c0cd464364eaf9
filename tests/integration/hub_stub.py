"""As much of the Hub's interface as an upload of small files takes, on a port of this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """Files by repository; `token` is the only one that may come in."""

    address: str = ""
    token: str = "hf_stub"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    fails: bool = False


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub that forgets everything at the end."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            if self.headers.get("authorization") != f"Bearer {hub.token}":
                return self._say(401, {"error": "Invalid credentials in Authorization header"})
            if self.path.startswith("/api/whoami-v2"):
                return self._say(200, {"type": "user", "name": "someone", "orgs": [], "auth": {"type": "access_token"}})
            name = "/".join(self.path.split("?")[0].split("/")[3:5])
            if name not in hub.repositories:
                return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            files = hub.repositories[name]
            if "/tree/" in self.path:
                return self._say(200, [{"type": "file", "path": path, "size": 1, "oid": "0"} for path in files])
            siblings = [{"rfilename": path} for path in files]
            return self._say(200, {"id": name, "sha": "0" * 40, "siblings": siblings, "private": hub.private[name]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization', 'someone')}/{asked['name']}"
                if name in hub.repositories:
                    return self._say(409, {"error": "You already created this model repo"})
                hub.repositories[name], hub.private[name] = (
                    {},
                    asked.get("visibility") == "private" or asked.get("private", False),
                )
                return self._say(200, {"url": f"{hub.address}/{name}", "name": name})
            if self.path.startswith("/api/validate-yaml"):
                return self._say(200, {"errors": [], "warnings": []})
            name = "/".join(self.path.split("/")[3:5])
            if hub.fails:
                return self._say(400, {"error": "The disk is full"})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
                return self._say(200, {"files": modes})
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.repositories[name][entry["value"]["path"]] = content
            found = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}"}
            return self._say(200, {**found, "pullRequestUrl": None})

        def _say(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
