"""Keys and certificates of one control plane: made in the test's folder, worth nothing elsewhere.

What lives here: a certificate authority, apiserver's serving certificate, the service-account key,
the static token of an administrator, and the kubeconfig that holds them. What may not: processes.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Paths of the files that a control plane on 127.0.0.1:`port` needs."""

    folder: Path
    port: int
    token: str

    @property
    def authority(self) -> Path:
        """The CA's certificate."""
        return self.folder / "ca.pem"

    @property
    def serving_certificate(self) -> Path:
        """apiserver's certificate for 127.0.0.1."""
        return self.folder / "serving.pem"

    @property
    def serving_key(self) -> Path:
        """The key of `serving_certificate`."""
        return self.folder / "serving.key"

    @property
    def service_account_key(self) -> Path:
        """Signs and checks service-account tokens."""
        return self.folder / "service-account.key"

    @property
    def tokens(self) -> Path:
        """apiserver's --token-auth-file: one administrator."""
        return self.folder / "tokens.csv"

    @property
    def kubeconfig(self) -> Path:
        """How kubectl and the controllers reach apiserver as that administrator."""
        return self.folder / "kubeconfig.yaml"


def make_credentials(folder: Path, port: int) -> Credentials:
    """Write all files of `Credentials` into the new `folder`."""
    folder.mkdir()
    made = Credentials(folder, port, secrets.token_hex(16))
    ca_key, serving_key = _new_key(), _new_key()
    authority = _certificate("test-ca", ca_key, "test-ca", ca_key, authority=True)
    serving = _certificate("kube-apiserver", serving_key, "test-ca", ca_key, authority=False)
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.serving_certificate.write_bytes(serving.public_bytes(serialization.Encoding.PEM))
    made.serving_key.write_bytes(_pem(serving_key))
    made.service_account_key.write_bytes(_pem(_new_key()))
    made.tokens.write_text(f'{made.token},admin,admin,"system:masters"\n')
    made.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(made)))
    return made


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _kubeconfig(made: Credentials) -> dict[str, object]:
    server = f"https://127.0.0.1:{made.port}"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority": str(made.authority)},
            }
        ],
        "users": [{"name": "admin", "user": {"token": made.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    }
