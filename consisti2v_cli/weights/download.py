"""Files of a hub repository over plain HTTP: a download that was killed goes on where it stopped.

huggingface_hub makes the session and the headers, so its login, endpoint and proxies hold here too; but it goes on with
a partial file only within one process. No `If-Range` is sent: the server that a redirect leads to has other tags than
the hub. The partial file is named after the hash of the whole, and that hash is what decides.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from consisti2v_cli.errors import WeightsError
from consisti2v_cli.version import __version__

from .cache import new_digest, typed

Notice = Callable[[str], None]
OnBytes = Callable[[int], None]  # bytes more than at the last call; negative where some are to be fetched anew

WAITS: Sequence[float] = (1, 2, 4, 8, 16, 32)  # seconds before each further try; from the start when bytes have come
LISTING_TRIES = 3  # of these waits, before a download has begun
LONGEST_WAIT = 300.0  # seconds that a hub may ask for
INCOMPLETE = ".consisti2v.incomplete"  # huggingface_hub's own tools show and prune files that end like this

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # of git, or sha256
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it."""

    name: str  # with its folder
    size: int  # bytes
    hash: str  # sha256; of small files git's own hash


class UnreachableError(Exception):
    """The hub was not reached, or not to the end."""


class _TryAgainError(Exception):
    """What goes wrong now and may go well in a while."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the hub asks for


class Repository:
    """A hub repository at one revision: its commit, and which files it has.

    Args:
        repo: `owner/name`, or `spaces/owner/name`.
        revision: branch, tag or commit.
        patient: try again where the hub is not reached at once.
        on_notice: called with a sentence about every wait.

    Raises:
        UnreachableError: the hub is not reached.
        WeightsError: it does not know the repository or revision, or does not give it out.
    """

    def __init__(self, repo: str, revision: str, *, patient: bool, on_notice: Notice) -> None:
        self.repo = repo
        self._type, self._name = typed(repo)
        self.revision = revision
        self.on_notice = on_notice
        self._waits = WAITS[:LISTING_TRIES] if patient else ()
        _check_environment()
        info = self._patiently(self._ask)
        self.commit = str(info.sha)
        if not _COMMIT.fullmatch(self.commit):
            raise WeightsError(f"{_host()} gives no commit of {repo}; is it a hub?")
        self._listed = {file.rfilename: file for file in info.siblings or []}

    @property
    def names(self) -> list[str]:
        """The names of all files."""
        return list(self._listed)

    def file(self, name: str) -> HubFile:
        """A file's size and hash: as listed, or asked for where the list lacks them."""
        listed = self._listed[name]
        size, hash = listed.size, listed.lfs.sha256 if listed.lfs else listed.blob_id
        if size is None or not hash:
            metadata = self._patiently(lambda: self._ask_for(name))
            size, hash = metadata.size, metadata.etag
        if size is None or not _HASH.fullmatch(hash or ""):
            raise WeightsError(f"{_host()} gives no hash of {self.repo}/{name}, so that it cannot be checked.")
        return HubFile(name, int(size), str(hash))

    def download(self, file: HubFile, blob: Path, on_bytes: OnBytes) -> None:
        """Fetch a file to where it belongs, from where an earlier attempt stopped. What comes is checked.

        Raises:
            UnreachableError: the hub is not reached to the end.
            WeightsError: the hub does not give it out, or gives wrong bytes twice.
            OSError: the disk is full, or cannot be written.
        """
        blob.parent.mkdir(parents=True, exist_ok=True)
        for again in (False, True):
            part = _Part(file, blob.with_name(blob.name + INCOMPLETE), on_bytes)
            self._complete(part)
            if part.is_right:
                part.finish(blob)
                return
            part.discard()
            if not again:
                self.on_notice(f"{file.name} came damaged (its hash is not the hub's); fetching it again.")
        raise WeightsError(f"{file.name} of {self.repo} came damaged twice: its hash is not {file.hash}.")

    def _complete(self, part: _Part) -> None:
        """Receive until nothing is missing, with a wait behind every failure, longer each time that nothing came."""
        waits = iter(WAITS)
        while part.have < part.file.size or not part.path.exists():
            before = part.have
            try:
                with _transport_in_words():
                    self._receive(part)
            except _TryAgainError as error:
                if part.have > before:
                    waits = iter(WAITS)
                self._pause(error, next(waits, None), part.file.name)

    def _receive(self, part: _Part) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        headers = _headers() | {"Accept-Encoding": "identity"}
        if part.have:
            headers["Range"] = f"bytes={part.have}-"
        url = self._address(part.file.name)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            if response.status_code not in (200, 206, 416):
                raise self._refusal(response)
            if part.have and not _goes_on(response, part):
                self.on_notice(f"{part.file.name}: the server does not go on in the middle; beginning anew.")
                part.discard()
                if response.status_code == 206:
                    raise _TryAgainError("the server sent another part than was asked for")
            if response.status_code == 416:
                raise _TryAgainError("the server has no such range")
            part.append(response.iter_bytes())
        if part.have < part.file.size:
            raise _TryAgainError("the connection was cut")

    def _ask(self) -> Any:
        from huggingface_hub import HfApi, constants

        timeout = constants.HF_HUB_ETAG_TIMEOUT
        try:
            return HfApi().repo_info(
                self._name, repo_type=self._type, revision=self.revision, files_metadata=True, timeout=timeout
            )
        except UnicodeEncodeError:
            raise WeightsError("This machine's token has letters that no token has; log in: hf auth login") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # some page, but no list of files
            raise WeightsError(f"{_host()} answers, but not as a hub does ({type(error).__name__}).") from None

    def _ask_for(self, name: str) -> Any:
        from huggingface_hub import get_hf_file_metadata

        return get_hf_file_metadata(self._address(name))

    def _address(self, name: str) -> str:
        """Of a file, at the commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._name, name, repo_type=self._type, revision=self.commit)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        from huggingface_hub.errors import HfHubHTTPError

        waits = iter(self._waits)
        while True:
            try:
                with _transport_in_words():
                    try:
                        return ask()
                    except HfHubHTTPError as error:
                        raise self._refusal(error.response) from None
            except _TryAgainError as error:
                self._pause(error, next(waits, None), self.repo)

    def _pause(self, error: _TryAgainError, wait: float | None, what: str) -> None:
        """Wait before a further try; UnreachableError where there have been enough."""
        if wait is None:
            raise UnreachableError(f"{what} cannot be fetched: {error}") from None
        seconds = wait if error.wait is None else error.wait
        if seconds > LONGEST_WAIT:
            raise UnreachableError(f"{what} cannot be fetched: {error} and asks to wait {seconds:.0f} s") from None
        self.on_notice(f"{what}: {error}; going on in {seconds:.3g} s.")
        time.sleep(seconds)

    def _refusal(self, response: Any) -> Exception:
        """An answer other than the file, as an error."""
        status, code = int(response.status_code), response.headers.get("X-Error-Code", "")
        if status in (408, 429) or status >= 500:
            return _TryAgainError(f"{_host()} answers {status}", _asked_wait(response.headers))
        if code == "RevisionNotFound":
            return WeightsError(f"{self.repo} has no revision {self.revision!r} on {_host()}.")
        if code == "EntryNotFound":
            return WeightsError(f"{_host()} does not have all files of {self.repo}, though it lists them.")
        if status == 401 and "credentials" in response.headers.get("X-Error-Message", ""):
            return WeightsError(f"{_host()} does not accept this machine's token; log in again: hf auth login")
        if status == 403 or code == "GatedRepo":
            return WeightsError(
                f"{_host()} does not give out {self.repo} to you ({status}): ask for access on its page there, "
                "and log in with a token that may read it: hf auth login"
            )
        if status in (401, 404):
            return WeightsError(
                f"{_host()} shows you no {self.repo} ({status}): check the name; "
                "if it is private or gated, log in: hf auth login"
            )
        return WeightsError(f"{_host()} does not give out {self.repo}: it answers {status}.")


class _Part:
    """What has come of a file so far, on the disk and in its hash."""

    def __init__(self, file: HubFile, path: Path, on_bytes: OnBytes) -> None:
        self.file = file
        self.path = path
        self.on_bytes = on_bytes
        self.have = 0
        self.digest = new_digest(file.hash, file.size)
        if path.is_file():
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    self._count(chunk)

    @property
    def is_right(self) -> bool:
        return self.digest.hexdigest() == self.file.hash

    def append(self, chunks: Iterator[bytes]) -> None:
        """Write to the disk as it comes, so that nothing is lost when the process is killed."""
        with self.path.open("ab") as stream:
            for chunk in chunks:
                stream.write(chunk)
                stream.flush()
                self._count(chunk)
                if self.have > self.file.size:  # wrong, whatever comes
                    return

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.on_bytes(-self.have)
        self.have = 0
        self.digest = new_digest(self.file.hash, self.file.size)

    def finish(self, blob: Path) -> None:
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, blob)

    def _count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.have += len(chunk)
        self.on_bytes(len(chunk))


def _goes_on(response: Any, part: _Part) -> bool:
    """Whether an answer begins where the partial file ends."""
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (
        response.status_code == 206
        and not encoded
        and found is not None
        and int(found[1]) == part.have
        and found[2] in ("*", str(part.file.size))
    )


def _asked_wait(headers: Any) -> float | None:
    """The seconds that a hub asks to wait: `Retry-After`, as a number or a date, or its `RateLimit` (draft 09)."""
    from email.utils import parsedate_to_datetime

    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    if asked:
        try:
            return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            return None
    limited = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    return float(limited[1]) if limited else None


@contextmanager
def _transport_in_words() -> Iterator[None]:
    """Whatever the HTTP library says, in our words: its messages may hold signed addresses, and headers with tokens."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    base = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    http: Any = import_module(base.__module__)  # httpx, or its successor
    try:
        yield
    except OfflineModeIsEnabled:
        raise UnreachableError("HF_HUB_OFFLINE is set, which forbids to fetch it") from None
    except http.TimeoutException:
        raise _TryAgainError(f"nothing came for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s") from None
    except http.ConnectError as error:
        through = _set_variables(_PROXIES)
        raise _TryAgainError(f"{_host()} is not reached ({error}{f'; through {through}' if through else ''})") from None
    except (http.NetworkError, http.RemoteProtocolError):
        raise _TryAgainError("the connection was cut") from None
    except http.ProxyError:
        raise _TryAgainError("the proxy does not let it through") from None
    except (http.HTTPError, http.InvalidURL) as error:
        raise WeightsError(f"{_host()} cannot be asked ({type(error).__name__}).") from None


def _check_environment() -> None:
    """WeightsError, naming the variable, where the environment's settings of the network cannot be meant."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise WeightsError(
            f"HF_ENDPOINT is {constants.ENDPOINT!r}, which is no address such as https://huggingface.co."
        )
    try:
        get_session()
    except (ImportError, ValueError) as error:  # a proxy of a kind that is not known, or that needs a package
        raise WeightsError(f"{_set_variables(_PROXIES)} cannot be used as a proxy: {_one_line(error)}.") from None
    except OSError as error:  # SSL's errors are some
        reason = error.strerror or _one_line(error)
        raise WeightsError(f"{_set_variables(_CERTIFICATES)} cannot be read as certificates: {reason}.") from None


def _set_variables(names: Sequence[str]) -> str:
    """Those variables that are set, with their values, but for passwords in them."""
    found = {name: os.environ[name] for name in (*names, *map(str.lower, names)) if os.environ.get(name)}
    return ", ".join(f"{name}={re.sub('//[^/@]*@', '//***@', value)}" for name, value in found.items())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return dict(build_hf_headers(library_name="consisti2v-cli", library_version=__version__))


def _host() -> str:
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or "The hub"
