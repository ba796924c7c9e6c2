"""A client of a region's server of 武陵联动 (Wuling Link), written from `proto/wuling` alone.

How a program that is not ours becomes a device of a region and works with it:

1.  *Read the code.* An officer shows `wuling:enrol?linkage=…&region=…&endpoint=…&ca=…&code=…`.
    It names the server, its region and linkage (which give `server_name`), and the SHA-256 of the
    one certificate to trust.
2.  *Pin.* `fetch_authority` makes a TLS handshake, takes the certificate with that SHA-256 out of
    the chain that the server shows, and hangs up. Nothing was said yet; a server that does not show
    it is not spoken to.
3.  *Enrol.* Over a channel that trusts this certificate alone, the code and a PKCS#10 request for
    a P-256 key that never leaves this machine are traded for a device id and a certificate.
4.  *Work offline.* `Outbox.add` puts an operation on disk. Ids are minted here (UUIDv7), so that
    operations can name records and each other long before a server knows of them.
5.  *Push.* `Outbox.batch` encodes what waits, signs the bytes and sends these very bytes. Send it
    again whenever in doubt: an operation is applied once, then answered with DUPLICATE.
    An operation leaves the outbox when it is settled (`Outbox.settle`), not before.
6.  *Read.* `Pull` goes on from a cursor page by page, `Watch` stays and tells as things come,
    `Sync` does both on one stream. Keep the cursor; say a purpose.
7.  *Be refused.* Every refusal carries `google.rpc` details; `Refusal.of` reads them. Decide by
    `reason`, show `message` to people, and wait `retry_after_s` where it is given.

The stubs come from `python -m grpc_tools.protoc`; see README.md beside this file.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from OpenSSL import SSL

from wuling.device.v1 import device_service_pb2 as device
from wuling.device.v1 import device_service_pb2_grpc as device_grpc
from wuling.kernel.v1 import record_pb2 as record

SECONDS_PER_CALL = 20.0
BATCH_TAG = b"wuling:batch:v1\0"
OPERATIONS_PER_BATCH_MAX = 1_000
BATCH_BYTES_MAX = 1 << 20
ANSWER_BYTES_MAX = 8 << 20
NUMBERED = "*[0-9]"


class PinMismatch(Exception):
    """The server does not show the certificate that the enrolment code names."""


def uuid7(now_ms: int | None = None) -> bytes:
    """Mints an id (RFC 9562, version 7): 48 bits of time, then chance."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (ms << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return value.to_bytes(16, "big")


def timestamp(seconds_ago: float = 0.0) -> Timestamp:
    """The time of this machine's clock, or one before it."""
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns() - int(seconds_ago * 1e9))
    return stamp


@dataclass(frozen=True)
class EnrolmentCode:
    """What an officer's screen shows, good once and for 15 minutes."""

    linkage: str
    region: str
    endpoint: str
    authority_sha256: bytes
    code: str

    @classmethod
    def parse(cls, text: str) -> EnrolmentCode:
        """Reads the text of the QR code; fields that it does not know are left alone."""
        scheme, _, query = text.strip().partition("?")
        if scheme != "wuling:enrol":
            raise ValueError("not an enrolment code")
        fields = parse_qs(query, strict_parsing=True)
        (linkage,), (region,), (endpoint,) = fields["linkage"], fields["region"], fields["endpoint"]
        (authority,), (code,) = fields["ca"], fields["code"]
        return cls(linkage, region, endpoint, bytes.fromhex(authority), code)


def server_name(linkage: str, region: str) -> str:
    """The host name in the region's certificate. A server of many regions chooses by it (SNI)."""
    return f"{region}.region.{linkage}.internal"


def fetch_authority(code: EnrolmentCode) -> bytes:
    """Gets the certificate that `code` pins, in PEM, from a handshake in which nothing is said."""
    host, _, port = code.endpoint.rpartition(":")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    with socket.create_connection((host.strip("[]"), int(port)), SECONDS_PER_CALL) as raw:
        raw.settimeout(None)
        tls = SSL.Connection(context, raw)
        tls.set_tlsext_host_name(server_name(code.linkage, code.region).encode())
        tls.set_connect_state()
        tls.do_handshake()
        shown = tls.get_peer_cert_chain(as_cryptography=True) or []
    for certificate in shown:
        if certificate.fingerprint(hashes.SHA256()) == code.authority_sha256:
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise PinMismatch(f"{code.endpoint} shows no certificate with the SHA-256 of the code")


@dataclass(frozen=True)
class Identity:
    """An enrolled device: everything that a call needs. Lies in one folder, the key included."""

    linkage: str
    region: str
    endpoint: str
    device_id: bytes
    role: int
    epoch: bytes
    authority_pem: bytes
    chain_pem: bytes
    key_pem: bytes

    def save(self, folder: Path) -> None:
        """Puts it on disk, readable by its owner alone."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = {k: v.hex() if isinstance(v, bytes) else v for k, v in asdict(self).items()}
        _write(folder / "identity.json", json.dumps(plain).encode())

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Reads it back."""
        plain: dict[str, Any] = json.loads((folder / "identity.json").read_bytes())
        text = {"linkage", "region", "endpoint", "role"}
        return cls(**{k: v if k in text else bytes.fromhex(v) for k, v in plain.items()})

    def channel(self, with_certificate: bool = True) -> grpc.Channel:
        """A channel to the region. Without the certificate, only Enrol and Push are allowed."""
        pair = (self.key_pem, self.chain_pem) if with_certificate else (None, None)
        return _channel(self.linkage, self.region, self.endpoint, self.authority_pem, *pair)

    def sign(self, batch: device.Batch) -> device.SignedBatch:
        """Signs the encoded batch; these bytes are sent, and none are encoded again."""
        encoded = batch.SerializeToString()
        key = serialization.load_pem_private_key(self.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(BATCH_TAG + encoded, ec.ECDSA(hashes.SHA256()))
        return device.SignedBatch(batch=encoded, signature=signature)


def enrol(code: EnrolmentCode, model: str) -> Identity:
    """Trades the code for a certificate; PinMismatch comes before anything is said."""
    authority = fetch_authority(code)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request_der = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    with _channel(code.linkage, code.region, code.endpoint, authority, None, None) as channel:
        answer = device_grpc.DeviceServiceStub(channel).Enrol(
            device.EnrolRequest(
                region_id=code.region,
                code=code.code,
                certificate_request=request_der,
                model=model,
            ),
            timeout=SECONDS_PER_CALL,
        )
    chain = [x509.load_der_x509_certificate(der) for der in answer.certificate_chain]
    if chain[0].public_key() != key.public_key():
        raise ValueError("the certificate is for another key")
    return Identity(
        linkage=code.linkage,
        region=code.region,
        endpoint=code.endpoint,
        device_id=answer.device_id,
        role=answer.role,
        epoch=answer.epoch,
        authority_pem=authority,
        chain_pem=b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


class Outbox:
    """Operations on disk, oldest first; one waits until the region has settled it."""

    def __init__(self, folder: Path) -> None:
        self._waiting = folder / "outbox"
        self._settled = folder / "settled"
        self._conflicts = folder / "conflicts"
        for each in (self._waiting, self._settled, self._conflicts):
            each.mkdir(parents=True, exist_ok=True)

    def add(self, operation: device.Operation, seconds_ago: float = 0.0) -> device.Operation:
        """Completes an operation and puts it on disk; needs no network."""
        folders = (self._waiting, self._settled, self._conflicts)
        numbers = (int(file.name) for each in folders for file in each.glob(NUMBERED))
        operation.device_seq = 1 + max(numbers, default=0)
        operation.operation_id = operation.operation_id or uuid7()
        operation.record_id = operation.record_id or uuid7()
        operation.occur_time.CopyFrom(timestamp(seconds_ago))
        operation.record_time.CopyFrom(timestamp(seconds_ago))
        _write(self._waiting / f"{operation.device_seq:012}", operation.SerializeToString())
        return operation

    def waiting(self) -> list[device.Operation]:
        """What is not settled yet."""
        files = sorted(self._waiting.glob(NUMBERED))
        return [device.Operation.FromString(file.read_bytes()) for file in files]

    def batch(self, identity: Identity) -> device.SignedBatch:
        """The oldest operations that fit into one batch, signed."""
        batch = device.Batch(region_id=identity.region, device_id=identity.device_id)
        batch.send_time.CopyFrom(timestamp())
        for operation in self.waiting()[:OPERATIONS_PER_BATCH_MAX]:
            batch.operations.append(operation)
            if batch.ByteSize() > BATCH_BYTES_MAX:
                del batch.operations[-1]
                break
        return identity.sign(batch)

    def settle(self, results: Iterable[device.OperationResult]) -> None:
        """Files what the region has settled; HELD and QUARANTINED wait, and are sent again.

        A conflict is for a person: send it again on the revision in the answer, or drop it.
        """
        files = {
            device.OUTCOME_APPLIED: self._settled,
            device.OUTCOME_DUPLICATE: self._settled,
            device.OUTCOME_REJECTED: self._settled,
            device.OUTCOME_CONFLICT: self._conflicts,
        }
        outcomes = {bytes(result.operation_id): result.outcome for result in results}
        for operation in self.waiting():
            outcome = outcomes.get(bytes(operation.operation_id), device.OUTCOME_UNSPECIFIED)
            folder = files.get(outcome)
            if folder is not None:
                name = f"{operation.device_seq:012}"
                os.replace(self._waiting / name, folder / name)


class Region:
    """The calls, each with a deadline."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = device_grpc.DeviceServiceStub(channel)

    def push(self, batch: device.SignedBatch) -> device.PushResponse:
        """Hands in a batch."""
        request = device.PushRequest(signed_batch=batch)
        return self._stub.Push(request, timeout=SECONDS_PER_CALL)

    def changes(self, cursor: device.Cursor, page_size: int = 0) -> Iterator[device.Change]:
        """All changes after `cursor`, which moves along: keep it for the next time."""
        more = True
        while more:
            request = device.PullRequest(
                cursor=cursor, page_size=page_size, purpose=record.PURPOSE_DUTY
            )
            page = self._stub.Pull(request, timeout=SECONDS_PER_CALL)
            yield from page.changes
            cursor.CopyFrom(page.next_cursor)
            more = page.more

    def watch(self, cursor: device.Cursor) -> Any:
        """Messages as they come, until `cancel()` is called on the answer."""
        request = device.WatchRequest(cursor=cursor, purpose=record.PURPOSE_DUTY)
        return self._stub.Watch(request, timeout=SECONDS_PER_CALL)

    def sync(self, requests: Iterable[device.SyncRequest]) -> Any:
        """Pushes and one watch on one stream."""
        return self._stub.Sync(requests, timeout=SECONDS_PER_CALL)


@dataclass(frozen=True)
class Refusal:
    """A refused call, as its `google.rpc` details tell it."""

    code: str
    reason: str = ""
    domain: str = ""
    message: str = ""
    locale: str = ""
    retry_after_s: float | None = None
    violations: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: grpc.RpcError) -> Refusal:
        """Reads the details; without any (a server out of reach) only the code is there."""
        found: dict[str, Any] = {"code": error.code().name}
        status = rpc_status.from_call(error)
        for packed in status.details if status else ():
            if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(packed.value)
                found |= {"reason": info.reason, "domain": info.domain}
            elif packed.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR):
                text = error_details_pb2.LocalizedMessage.FromString(packed.value)
                found |= {"message": text.message, "locale": text.locale}
            elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo.FromString(packed.value)
                found["retry_after_s"] = retry.retry_delay.ToMilliseconds() / 1000
            elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                request = error_details_pb2.BadRequest.FromString(packed.value)
                violations = {v.field: v.description for v in request.field_violations}
                found["violations"] = violations
        return cls(**found)


def _channel(
    linkage: str,
    region: str,
    endpoint: str,
    authority_pem: bytes,
    key_pem: bytes | None,
    chain_pem: bytes | None,
) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(authority_pem, key_pem, chain_pem)
    options = [
        # The name is in no DNS: it says whose certificate is expected, not where the server is.
        ("grpc.ssl_target_name_override", server_name(linkage, region)),
        ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ]
    return grpc.secure_channel(endpoint, credentials, options)


def _write(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, also after a loss of power."""
    part = path.with_name(path.name + ".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
