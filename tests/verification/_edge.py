"""A gateway for the edge's suites, tokens for it, and raw sockets."""

import base64
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from _nats import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = os.environ.get("TEST_GATEWAY") or str(ROOT / "target" / "debug" / "arqon-gateway")
ISSUER, AUDIENCE = "https://id.example", "arqon"
# Lets in whose claim `role` has five characters.
ADMINS = """(module
  (import "arqon_host_v1" "host_get_claim" (func $claim (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "role")
  (func (export "on_request") (result i32)
    (i32.ne (call $claim (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)) (i32.const 5))))"""


class Cases:
    """What held and what did not."""

    def __init__(self):
        self.passed, self.failed = 0, []

    def check(self, holds, what):
        """Counts one case."""
        if holds:
            self.passed += 1
        else:
            self.failed.append(what)
            print(f"FAILED: {what}", file=sys.stderr)

    def same(self, seen, expected, what):
        """Counts one comparison."""
        self.check(seen == expected, f"{what}: {seen!r} instead of {expected!r}")

    def end(self):
        """The last line, and the exit code."""
        print(f"{self.passed} passed, {len(self.failed)} failed")
        sys.exit(bool(self.failed))


class Keys:
    """One key of each kind, and the set with their public halves."""

    def __init__(self):
        self.secret = os.urandom(32)
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()

    def of(self, kid):
        """What PyJWT signs with, and its algorithm."""
        return {"hs": (self.secret, "HS256"), "rs": (self.rsa, "RS256"), "es": (self.ec, "ES256"), "ed": (self.ed, "EdDSA")}[kid]

    def jwks(self):
        """The key set as JSON."""
        public = {
            "hs": {"kty": "oct", "k": base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode()},
            "rs": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa.public_key())),
            "es": json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.ec.public_key())),
            "ed": json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.ed.public_key())),
        }
        return json.dumps({"keys": [key | {"kid": kid, "alg": self.of(kid)[1]} for kid, key in public.items()]})

    def token(self, kid="ed", headers=None, leave_out=(), **claims):
        """A token as an issuer makes it."""
        now = int(time.time())
        full = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 300, "nbf": now - 5, "iat": now - 5, "sub": "u1", "tenant_id": "acme"} | claims
        key, algorithm = self.of(kid)
        full = {name: value for name, value in full.items() if name not in leave_out}
        return jwt.encode(full, key, algorithm, headers={"kid": kid} | (headers or {}))


def certificates(folder: pathlib.Path, name="server"):
    """An authority and a certificate of it for 127.0.0.1, as PEM files."""
    key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)

    def build(subject, of, signer, signed, authority):
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, of)]
        builder = (x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(signed.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                   .not_valid_after(now + datetime.timedelta(days=1))
                   .add_extension(x509.BasicConstraints(ca=authority, path_length=None), True)
                   .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]), False))
        return builder.sign(signer, hashes.SHA256())

    ca = build(f"{name} authority", f"{name} authority", issuer_key, issuer_key, True)
    leaf = build(name, f"{name} authority", issuer_key, key, False)
    pem = serialization.Encoding.PEM
    (folder / f"{name}-ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / f"{name}.pem").write_bytes(leaf.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return leaf.serial_number


class Gateway:
    """A running gateway with this configuration; paths in it are relative to its folder."""

    def __init__(self, config="", gateway="", keys=None, files=None, environment=None):
        self.home = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.home.name)
        self.port, self.admin = free_port(), free_port()
        if keys:
            (self.folder / "keys.json").write_text(keys.jwks(), encoding="utf-8")
            config += f'\n[auth]\nissuers = [{{ issuer = "{ISSUER}", audience = "{AUDIENCE}", jwks_file = "keys.json" }}]\n'
        for name, content in (files or {}).items():
            (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        (self.folder / "gateway.toml").write_text(
            f'[gateway]\nlisten = "127.0.0.1:{self.port}"\nadmin_listen = "127.0.0.1:{self.admin}"\n{gateway}\n{config}', encoding="utf-8")
        self.log = open(self.folder / "log", "wb")
        self.environment = os.environ | {"RUST_LOG": "debug"} | (environment or {})
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen([GATEWAY, "serve", "--config", "gateway.toml"], cwd=self.folder, stderr=self.log, env=self.environment)
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.operate("GET", "/readyz")[0] == 200:
                    return self
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"not ready: {self.said()[-2000:]}")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.home.cleanup()

    def said(self):
        """Its log."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def operate(self, method, path):
        """Status and body of the admin listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, series):
        """The value of one series as `/metrics` writes it; None where it is not there."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.operate("GET", "/metrics")[1], re.M)
        return float(found[1]) if found else None

    def publish(self, suffix="users", token=None, body=b"x", headers=()):
        """Status, headers and problem code (or the 202's content) of one publish by http.client."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest("POST", f"/v1/publish/{suffix}")
            if token is not None:
                connection.putheader("Authorization", f"Bearer {token}")
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            said = json.loads(answer.read() or b"null")
            return answer.status, dict(answer.getheaders()), said

    def raw(self, data: bytes, seconds=15.0) -> bytes:
        """Everything that comes back on a raw connection until it is closed, or nothing comes any more."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as stream:
            with contextlib.suppress(OSError):
                stream.sendall(data)
            got = b""
            with contextlib.suppress(OSError):
                while more := stream.recv(65_536):
                    got += more
            return got


def statuses(answer: bytes):
    """The status of each HTTP/1 answer in what came back."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def code(said):
    """The problem's code, if it is one."""
    return said.get("code") if isinstance(said, dict) else None
