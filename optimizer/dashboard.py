"""Optuna Dashboard on the job database, for this machine's user only and read-only unless asked otherwise."""

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optimizer.errors import InputError

if TYPE_CHECKING:
    import optuna

HOST = "127.0.0.1"

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]

_READING = ("GET", "HEAD", "OPTIONS")
_HEADERS = [
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]
# An artifact is a picture. Opened on its own, it may not run, load or send anything; and it is drawn again now and then
# under the same address.
_OF_ARTIFACTS = [
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    ("Cache-Control", "no-cache"),
]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """One line per poll of the page helps nobody."""


def guarded(application: Application, port: int, writable: bool) -> Application:
    """Optuna Dashboard has no login: refuse what changes studies, and pages of other sites that call this server.

    A browser sends the name it was given as `Host`, so a foreign name that resolves to this machine is told apart;
    and the site a change comes from as `Origin`. Files are refused even where changes are allowed.
    """
    names = {f"{HOST}:{port}", f"localhost:{port}"}
    origins = {f"http://{name}" for name in names}

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ.get("HTTP_HOST") not in names:
            return _refuse(start, "403 Forbidden", f"open http://{HOST}:{port}/ instead")
        if environ.get("HTTP_ORIGIN", f"http://{environ['HTTP_HOST']}") not in origins:
            return _refuse(start, "403 Forbidden", "another site's page may not use this dashboard")
        if not writable and environ["REQUEST_METHOD"] not in _READING:
            return _refuse(start, "403 Forbidden", "this dashboard is read-only; start it with --writable")
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] in ("POST", "PUT") and path.lstrip("/").startswith("api/artifacts"):
            return _refuse(start, "403 Forbidden", "this dashboard takes no files: what is uploaded, it would serve")
        further = _HEADERS + (_OF_ARTIFACTS if path.startswith("/artifacts/") else [])

        def start_guarded(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(name, value) for name, value in headers if name != "Access-Control-Allow-Origin"]
            return start(status, kept + further, *rest)

        return application(environ, start_guarded)

    return answer


def _refuse(start: Start, status: str, reason: str) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), *_HEADERS])
    return [reason.encode()]


def make_dashboard(storage_url: str, port: int, writable: bool = False) -> WSGIServer:
    """A server ready for `serve_forever()`; port 0 takes a free one, to be read from `server_port`.

    Raises `InputError` where the port is taken or the database cannot be opened.
    """
    from optuna_dashboard import wsgi

    from optimizer.artifacts import Artifacts
    from optimizer.database import open_database
    from optimizer.shown import shown
    from optimizer.study import open_storage

    database = open_database(storage_url)
    inner = wsgi(shown(open_storage(storage_url)), artifact_store=Artifacts(database))
    try:
        server: WSGIServer = make_server(HOST, port, lambda *_: [], server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise InputError(
            f"port {port} of {HOST} cannot be used ({error.strerror}); choose another with --port."
        ) from error
    server.set_app(guarded(inner, server.server_port, writable))
    return server


def write_note(study: "optuna.Study", body: str, number: int | None = None) -> None:
    """Write the Markdown note of a study, or of one of its trials, finished or not."""
    from optuna.trial import Trial
    from optuna_dashboard import get_note, save_note

    page = study if number is None else Trial(study, _trial_id(study, number))
    if get_note(page) != body:
        save_note(page, body)


def _trial_id(study: "optuna.Study", number: int) -> int:
    identity: int = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return identity
