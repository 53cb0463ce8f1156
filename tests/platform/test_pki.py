"""Certificates of the embedded control plane: what a strict verifier, such as Python's from 3.13 on, asks of them."""

import ssl
from pathlib import Path

import pytest

from moe_dev.pki import Authority, KeyPair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """What `ssl.create_default_context` gives from Python 3.13 on."""
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake_hands(authority: Authority, server: KeyPair, user: KeyPair, host: str) -> ssl.SSLObject:
    """A TLS handshake in memory, in which each side verifies the other strictly; the server's side of it."""
    of_server = strict(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate))
    of_server.verify_mode = ssl.CERT_REQUIRED
    of_server.load_cert_chain(server.certificate, server.key)
    of_client = strict(ssl.create_default_context(cafile=authority.certificate))
    of_client.load_cert_chain(user.certificate, user.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [of_client.wrap_bio(down, up, server_hostname=host), of_server.wrap_bio(up, down, server_side=True)]
    waiting = list(sides)
    for _ in range(10):  # flights of TLS 1.3 and to spare
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    return sides[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_both_sides_pass_a_strict_verification(authority: Authority, host: str) -> None:
    user = authority.user("system:alice", ["developers", "system:masters"])
    seen = shake_hands(authority, authority.server(), user, host).getpeercert()
    assert seen is not None
    subject = {(name, value) for ((name, value),) in seen["subject"]}
    assert subject == {
        ("commonName", "system:alice"),
        ("organizationName", "developers"),
        ("organizationName", "system:masters"),
    }


def test_another_authority_and_another_host_are_refused(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").server()
    user = authority.user("alice", [])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(authority, stranger, user, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(authority, authority.server(), user, "example.test")
