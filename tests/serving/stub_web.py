"""A web server, or an object store, on loopback: a folder with its SHA256SUMS, and what may be wrong with it."""

import contextlib
import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from stub_server import Handler, serving, sha256_of, spoilt

from moe_dev.pki import KeyPair

FOLDER = "models/tiny 1"
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@dataclass
class StubWeb:
    """Attributes:
    files: below ``FOLDER``, by name; ``SHA256SUMS`` is added.
    token: asked for when set. signed: whether signatures of ``ACCESS`` are asked for, as S3 does.
    wrong: files of which other bytes come, once each. cut: whose connection breaks in the middle, so many times each.
    moved: where files are, of which the answer is a redirection. whole: whether ranges are not known here.
    gets: how often each file was sent; sent: bytes of each; parts: how often some bytes from its middle were sent.
    partless: the status that requests for parts are answered with, if set. failing: as many of them, with 503.
    """

    files: dict[str, bytes]
    token: str | None = None
    signed: str | None = None
    wrong: set[str] = field(default_factory=set)
    cut: Counter[str] = field(default_factory=Counter)
    moved: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    partless: int = 0
    failing: int = 0
    gets: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    authorizations: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        sums = "".join(f"{sha256_of(content)}  {name}\n" for name, content in self.files.items())
        self.files["SHA256SUMS"] = sums.encode()

    @property
    def sha256(self) -> str:
        return sha256_of(self.files["SHA256SUMS"])

    @property
    def https(self) -> str:
        return f"{self.url}/{quote(FOLDER)}/#sha256={self.sha256}"

    @property
    def s3(self) -> str:
        """Of a bucket ``models``."""
        prefix = FOLDER.removeprefix("models/")
        return f"s3://models/{prefix.replace(' ', '%20')}/#sha256={self.sha256}&endpoint={quote(self.url, safe='')}"


@contextlib.contextmanager
def running(web: StubWeb, pair: KeyPair | None = None) -> Iterator[StubWeb]:
    """``pair``: of https."""
    with serving(_handler(web), pair) as port:
        web.url = f"{'https' if pair else 'http'}://localhost:{port}"
        yield web


def _handler(web: StubWeb) -> type[Handler]:
    class Answering(Handler):
        def answer(self) -> None:
            name = unquote(urlsplit(self.path).path).removeprefix(f"/{FOLDER}/")
            web.authorizations.append(self.headers.get("Authorization", ""))
            if name in web.moved:
                return self._say(302, Location=web.moved[name])
            if web.token and self.headers.get("Authorization") != f"Bearer {web.token}":
                return self._say(401)
            if web.signed and not is_signed(self.command, self.path, self.headers["Host"], web.signed):
                return self._say(403)
            if name not in web.files:
                return self._say(404)
            if self.end is not None and web.partless:
                return self._say(web.partless)
            if self.end is not None and web.failing:
                web.failing -= 1
                return self._say(503)
            return self._send(name, web.files[name])

        def _say(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, name: str, content: bytes) -> None:
            begin, end = (0, len(content)) if web.whole else (self.first, self.end or len(content))
            partial = "Range" in self.headers and not web.whole
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(end - begin))
            if partial:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.end is not None:
                web.parts[name] += 1
                self.wfile.write(content[begin:end])
                return
            web.gets[name] += 1
            if name in web.wrong:
                web.wrong.remove(name)
                content = spoilt(content)
            if web.cut[name]:
                web.cut[name] -= 1
                end = (begin + end) // 2
                self.close_connection = True
            web.sent[name] += end - begin
            self.wfile.write(content[begin:end])

    return Answering


def is_signed(method: str, path: str, host: str, region: str) -> bool:
    """Signature version 4 in the address, as Amazon's documents describe it ("Authenticating Requests: Using Query
    Parameters"): computed here anew."""
    parts = urlsplit(path)
    query = dict(parse_qsl(parts.query))
    signature = query.pop("X-Amz-Signature", "")
    scope = f"{query.get('X-Amz-Date', '')[:8]}/{region}/s3/aws4_request"
    if query.get("X-Amz-Credential") != f"{ACCESS}/{scope}":
        return False
    canonical = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in sorted(query.items()))
    request = f"{method}\n{parts.path}\n{canonical}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature)
