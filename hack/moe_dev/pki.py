"""A certificate authority for one embedded control plane: its server certificate, its users, its signing key.

Keys are P-256 (made in a millisecond); everything lies in a 0700 directory and ends with it. The certificates have what
RFC 5280 asks for, since Python verifies strictly (`ssl.VERIFY_X509_STRICT`) from 3.13 on: key identifiers of subject
and issuer, and constraints and key usage marked critical.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=7)
# Another machine's clock, or this one's after a correction, must not find a certificate not yet valid.
CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    certificate: Path
    key: Path


class Authority:
    """Issues certificates into `directory`; `certificate` is what clients trust."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("moe-operator development")
        signed = self._builder(self._name, self._key.public_key(), authority=True).sign(self._key, hashes.SHA256())
        self.certificate = self._write("ca.crt", signed.public_bytes(serialization.Encoding.PEM))

    def server(self, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> KeyPair:
        """The certificate of a server on loopback, and of those names and IPv4 addresses."""
        alternatives = x509.SubjectAlternativeName(
            [
                *(x509.DNSName(name) for name in ("localhost", *names)),
                *(x509.IPAddress(ipaddress.IPv4Address(address)) for address in ("127.0.0.1", *addresses)),
            ]
        )
        return self._issue("server", _name("localhost"), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def user(self, name: str, groups: Sequence[str]) -> KeyPair:
        """A client certificate: Kubernetes takes the user from its common name and groups from its organizations."""
        return self._issue(name.replace(":", "-"), _name(name, groups), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def signing_key(self) -> Path:
        """A fresh private key, for the tokens of ServiceAccounts."""
        return self._write("service-accounts.key", _private_pem(ec.generate_private_key(ec.SECP256R1())))

    def _issue(
        self, stem: str, subject: x509.Name, usage: x509.ObjectIdentifier, names: x509.SubjectAlternativeName | None
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key.public_key(), authority=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        return KeyPair(
            self._write(f"{stem}.crt", signed.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{stem}.key", _private_pem(key)),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        constraints = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(constraints, critical=True)
            .add_extension(_key_usage(authority=authority), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(issuer, critical=False)
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """An authority signs certificates and lists of revoked ones; anybody else proves who it is."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
