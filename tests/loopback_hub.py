"""A small hub on loopback that does on request what hubs and networks do: cut, lie, refuse, wait, redirect."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTING = "the listing"  # stands for a file's name where an answer to the listing is meant
SMALL = 10_000  # bytes: smaller files are no LFS files, and have git's hash
CHUNK = 1 << 14


@dataclass
class Trouble:
    """What goes wrong with one answer."""

    status: int = 0  # instead of the file
    headers: dict[str, str] = field(default_factory=dict)  # that go with the status
    cut_after: int | None = None  # bytes, then the connection is closed
    stall_after: int | None = None  # bytes, then nothing comes until the hub is closed
    hold_after: int | None = None  # bytes, then nothing comes until `Hub.go_on` is set
    wrong_bytes: bool = False
    ignore_range: bool = False
    begin: int | None = None  # where the answer begins, whatever was asked
    pause: float = 0.0  # seconds between chunks
    redirect: bool = False  # to another server
    without_length: bool = False  # the end of the file is the end of the connection
    body: bytes | None = None  # instead of the file's


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    port: int


class Hub:
    """A hub with one repository: the files of a folder, as they are when they are asked for.

    `trouble["unet/x.safetensors"]` is a queue with the trouble of the next answers; `always` holds for all of them.
    """

    def __init__(self, files: Path, repo: str = "somebody/tiny") -> None:
        self.files = files
        self.repo = repo
        self.commit = COMMIT
        self.needs_token: str | None = None
        self.plain_listing = False  # without sizes and hashes
        self.claims: dict[str, int] = {}  # sizes that it lists, by name, right or wrong
        self.requests: list[Request] = []
        self.trouble: dict[str, deque[Trouble]] = defaultdict(deque)
        self.always: dict[str, Trouble] = {}
        self.closed = threading.Event()
        self.go_on = threading.Event()
        self.servers = [_Server(("127.0.0.1", 0), _handler(self)) for _ in range(2)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        """The hub's; a redirect leads to another port."""
        return f"http://127.0.0.1:{self.servers[0].server_port}"

    @property
    def elsewhere(self) -> str:
        """Where redirects lead to."""
        return f"http://127.0.0.1:{self.servers[1].server_port}"

    @property
    def listed_at(self) -> str:
        """The path of what it says of its repository: a model's, or that of one of its spaces."""
        return f"/api/{self.repo}" if self.repo.startswith("spaces/") else f"/api/models/{self.repo}"

    def close(self) -> None:
        self.closed.set()
        self.go_on.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def gets(self, name: str) -> list[Request]:
        """The GET requests for a file that were answered with some of it."""
        return [asked for asked in self.requests if asked.method == "GET" and asked.path.endswith(f"/{name}")]

    def wait_for(self, name: str, count: int, storage: Path) -> None:
        """Wait until a client's folder for this repository has so many bytes of a file: sent is not yet received."""
        blob = storage / "blobs" / hub_hash(self.files / name)
        part = blob.with_name(f"{blob.name}.consisti2v.incomplete")
        wait_until(lambda: blob.exists() or _size(part) >= count, f"{count} bytes of {name}")

    def listing(self) -> dict[str, Any]:
        names = sorted(path.relative_to(self.files).as_posix() for path in self.files.rglob("*") if path.is_file())
        siblings = [{"rfilename": name} if self.plain_listing else _listed(self.files / name, name) for name in names]
        for entry in siblings:
            entry["size"] = self.claims.get(str(entry["rfilename"]), entry.get("size"))
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "tags": [], "siblings": siblings}


def wait_until(holds: Callable[[], bool], what: str, patience: float = 60.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def _size(path: Path) -> int:
    """A file's, while another process may be removing it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are what this is for."""


def hub_hash(path: Path) -> str:
    """What the hub names a file: its sha256, or git's hash of a small one."""
    content = path.read_bytes()
    if len(content) >= SMALL:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _listed(path: Path, name: str) -> dict[str, Any]:
    size = path.stat().st_size
    entry = {"rfilename": name, "size": size, "blobId": hub_hash(path)}
    if size >= SMALL:
        entry["blobId"] = "f" * 40  # of the pointer, not of the file
        entry["lfs"] = {"sha256": hub_hash(path), "size": size, "pointerSize": 134}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            headers = self.headers
            asked = Request(
                self.command, path, headers.get("Range"), headers.get("Authorization"), self.server.server_port
            )
            hub.requests.append(asked)
            here = self.server is hub.servers[0]
            if here and hub.needs_token and asked.authorization != f"Bearer {hub.needs_token}":
                self.refuse(401, {"X-Error-Code": "RepoNotFound"})
            elif path.startswith(f"{hub.listed_at}/revision/"):
                self.list_files(path.rpartition("/")[2])
            elif path.startswith(f"/{hub.repo}/resolve/{hub.commit}/"):
                self.send_file(path.removeprefix(f"/{hub.repo}/resolve/{hub.commit}/"), asked)
            else:
                self.refuse(404, {"X-Error-Code": "RepoNotFound"})

        def list_files(self, revision: str) -> None:
            trouble = self.next_trouble(LISTING)
            if trouble.status:
                self.refuse(trouble.status, trouble.headers)
            elif revision not in ("main", hub.commit):
                self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            else:
                self.send(200, trouble.body or json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})

        def send_file(self, name: str, asked: Request) -> None:
            trouble = self.next_trouble(name) if self.command == "GET" else Trouble()
            file = hub.files / name
            if trouble.status:
                self.refuse(trouble.status, trouble.headers)
            elif not file.is_file():
                self.refuse(404, {"X-Error-Code": "EntryNotFound"})
            elif trouble.redirect and self.server is hub.servers[0]:
                self.send(302, b"", {"Location": f"{hub.elsewhere}{self.path}", "X-Linked-Etag": f'"{hub_hash(file)}"'})
            else:
                self.stream(file.read_bytes(), hub_hash(file), asked, trouble)

        def next_trouble(self, name: str) -> Trouble:
            queue = hub.trouble[name]
            return queue.popleft() if queue else hub.always.get(name, Trouble())

        def stream(self, content: bytes, tag: str, asked: Request, trouble: Trouble) -> None:
            size = len(content)
            begin = int(asked.range[6:].split("-")[0]) if asked.range and not trouble.ignore_range else 0
            begin = begin if trouble.begin is None else trouble.begin
            if begin and begin >= size:
                self.refuse(416, {"Content-Range": f"bytes */{size}"})
                return
            if trouble.wrong_bytes:
                content = bytes(255 - byte for byte in content)
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
            if not trouble.without_length:
                self.send_header("Content-Length", str(size - begin))
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", hub.commit)
            self.end_headers()
            if self.command == "GET":
                self.pour(content, begin, asked, trouble)
            self.close_connection = self.close_connection or trouble.without_length

        def pour(self, content: bytes, begin: int, asked: Request, trouble: Trouble) -> None:
            limits = [limit for limit in (trouble.cut_after, trouble.stall_after) if limit is not None]
            end = min([len(content), *(begin + limit for limit in limits)])
            try:
                for place in range(begin, end, CHUNK):
                    chunk = content[place : min(place + CHUNK, end)]
                    self.wfile.write(chunk)
                    self.wfile.flush()
                    if trouble.hold_after is not None and place + CHUNK > begin + trouble.hold_after:
                        hub.go_on.wait()
                    if trouble.pause and hub.closed.wait(trouble.pause):
                        break
                if trouble.stall_after is not None:
                    hub.closed.wait()
            except OSError:  # the other side is gone
                self.close_connection = True
            if limits:
                self.close_connection = True

        def refuse(self, status: int, headers: dict[str, str]) -> None:
            self.send(status, b'{"error": "no"}', {"Content-Type": "application/json", **headers})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def client_environment(hub_address: str, home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that asks this hub, with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CONSISTI2V_"))}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": hub_address, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    return kept | own | more


def same_files(folder: Path, model: Path) -> bool:
    """Whether a folder has the files of a model, to the byte, and no others."""
    names, expected = (
        sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
        for place in (folder, model)
    )
    return names == expected and all((folder / name).read_bytes() == (model / name).read_bytes() for name in names)


FETCH = """
import json, sys
from consisti2v_cli.errors import ConsistI2VError
from consisti2v_cli.weights import download, fetch
download.WAITS = (0.01,) * 4
model, options, times, log = json.loads(sys.argv[1])
for _ in range(times):
    reports, notices = [], []
    def hear(notice):
        notices.append(notice)
        with open(log, "a") as file:
            print(notice, file=file)
    try:
        folder = fetch(
            model, on_progress=lambda *report: reports.append(report), on_notice=hear, **options
        )
        result = {"path": str(folder.path), "revision": folder.revision}
    except ConsistI2VError as error:
        result = {"error": type(error).__name__, "text": str(error), "code": error.exit_code}
    print(json.dumps(result | {"reports": reports, "notices": notices}))
"""


class Fetched(dict[str, Any]):
    """What a process that fetched has to say."""

    @property
    def path(self) -> Path:
        assert "path" in self, self
        return Path(self["path"])

    @property
    def text(self) -> str:
        assert "text" in self, self
        return str(self["text"])

    @property
    def notices(self) -> list[str]:
        return list(self["notices"])


class Client:
    """Processes that fetch from a hub into a cache of their own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self.home = home
        self.cache = home / "hub"
        self.log = home.with_name(f"{home.name}.log")  # all notices, as they come
        self.storage = self.cache / f"models--{hub.repo.replace('/', '--')}"

    def start(
        self,
        model: str | None = None,
        env: dict[str, str] | None = None,
        largest_file: int | None = None,
        times: int = 1,
        **options: Any,
    ) -> subprocess.Popen:
        """Fetch in a process of its own, which may write files of so many bytes at most."""
        limit = (largest_file or resource.RLIM_INFINITY,) * 2
        return subprocess.Popen(
            [sys.executable, "-c", FETCH, json.dumps([model or self.hub.repo, options, times, str(self.log)])],
            env=client_environment(self.hub.address, self.home, **(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )

    def fetch(self, model: str | None = None, env: dict[str, str] | None = None, **options: Any) -> Fetched:
        return self.result(self.start(model, env, **options))

    def fetch_often(self, times: int) -> list[Fetched]:
        """Fetch several times, one after the other in one process."""
        return self.results(self.start(times=times))

    def result(self, process: subprocess.Popen) -> Fetched:
        (result,) = self.results(process)
        return result

    def results(self, process: subprocess.Popen) -> list[Fetched]:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == ""  # no bars, no chatter
        return [Fetched(json.loads(line)) for line in output.splitlines()]
