"""A region peer of 武陵联动 (Wuling Link), written from EXCHANGE.md alone; each § is a section of it.

`init` makes a region's keys and card, `sign` signs an agreement, and `run` shows events through a gateway and takes
the neighbours' views. README.md has the words; all print JSON.
"""

import asyncio
import hashlib
import hmac
import json
import os
import random
import re
import sqlite3
import sys
import time
from collections import Counter, defaultdict, deque
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import zstandard
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf import empty_pb2, message, timestamp_pb2, unknown_fields

from wuling.agreement.v1.agreement_pb2 import Agreement, Clause
from wuling.directory.v1.directory_pb2 import Directory, DirectoryKey, RegionLevel, TrustSet
from wuling.exchange.v1 import exchange_pb2 as exchange
from wuling.exchange.v1 import exchange_service_pb2 as service
from wuling.exchange.v1.exchange_service_pb2_grpc import ExchangeServiceStub
from wuling.kernel.v1 import record_pb2 as kernel
from wuling.kernel.v1.error_pb2 import ErrorReason
from wuling.patrol.v1 import patrol_pb2 as patrol
from wuling.risk.v1 import risk_pb2 as risk

NAMES = "agreement batch commitment directory directory-key freshness genesis head hello hpke-info link receipt segment"
TAGS = {name: f"wuling:{name}:v1\0".encode() for name in NAMES.split()}
SLUG, UUID7 = re.compile(r"[a-z0-9-]{1,63}"), re.compile(rb"(?s).{6}[\x70-\x7f].{9}")
PATROL = (patrol.Shift, patrol.Patrol, patrol.CheckIn, patrol.TrackBatch, patrol.Observation)
PAYLOADS: dict[int, Any] = dict(enumerate((*PATROL, risk.Event, patrol.SosAlert), start=1))
KEM, HPKE, LANES, FORM = b"KEM\0\x20", b"HPKE\0\x20\0\1\0\1", kernel.Lane.values()[1:], serialization.Encoding
PIECE_BYTES, CUT_BYTES, SEGMENT_BYTES, WINDOW_BYTES, TRIES_MAX = 1 << 14, 1 << 18, 1 << 20, 1 << 22, 3
PING_S, DEAD_S, HEAD_S, BACKOFF_MAX_S, IDLE_S, KEPT_DAYS = 2.0, 6.0, 60.0, 30.0, 0.01, 3 * 365
# What this clause lets leave is shown; a text that may name a person or a car is withheld (§11.2, §19).
PLAIN = Clause(grant="GRANT_EVENT_DETAIL", release="RELEASE_AT_ONCE", precision="PRECISION_EXACT")
AT_HOME, LONGEST = ("FAMILY", "MEDICAL"), {"category": 32, "place": 256, "text": 2_000}
REASONS = {"leave": exchange.LeaveReason, "erase": exchange.EraseReason}
NAMES_PERSON = re.compile(r"\d{11}|[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-ZＡ-Ｚ]\w{5}", re.I)
# What is overwritten is in no file any more: no log beside this one, no old bytes in it (§12.6).
SCHEMA = """PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS kept (name PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS entry (stream, seq, salt, entry, h, end_s, what, row, PRIMARY KEY (stream, seq));"""
Numbered = NamedTuple(
    "Numbered",
    [("seq", int), ("salt", bytes), ("entry", bytes), ("h", bytes), ("end_s", int), ("what", str), ("row", bytes)],
)  # an entry in its place: its kind, why it is parked, or what became of it; and its row of the digest


class Refused(Exception):
    """What does not hold: a name of `ErrorReason`, and where."""


# All that bytes of others can raise. No reason ever travels, but that of a parked entry.
UNFIT = (Refused, message.DecodeError, InvalidSignature, InvalidTag, ValueError, zstandard.ZstdError)


def require(holds: object, reason: str, where: str = "") -> None:
    if not holds:
        raise Refused(reason, where)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def uuid7() -> bytes:
    value = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10))
    return (value & ~(0xF << 76 | 0x3 << 62) | (0x7 << 76 | 0x2 << 62)).to_bytes(16)


def stream_bytes(s: exchange.StreamId) -> bytes:
    """Names a stream; refuses one that is not well formed (§6)."""
    well = SLUG.fullmatch(s.origin) and UUID7.fullmatch(s.epoch) and UUID7.fullmatch(s.agreement_id)
    require(well and s.agreement_version and s.lane in LANES, "FIELD_INVALID", "stream")
    origin, version = bytes([len(s.origin)]) + s.origin.encode(), s.agreement_version.to_bytes(4)
    return origin + s.epoch + s.agreement_id + version + bytes([s.lane])


def commitment(salt: bytes, entry: bytes) -> bytes:
    """What stands for an entry in its chain, and in its place once its content is gone (§6)."""
    return entry if salt == bytes(16) and len(entry) == 32 else sha256(TAGS["commitment"], salt, entry)


def link(seq: int, before: bytes, salt: bytes, entry: bytes) -> bytes:
    return sha256(TAGS["link"], seq.to_bytes(8), before, commitment(salt, entry))


def signature(tag: str, body: bytes, signer: str, key: ed25519.Ed25519PrivateKey) -> kernel.Signature:
    key_id, made = sha256(key.public_key().public_bytes_raw())[:8], key.sign(TAGS[tag] + body)
    return kernel.Signature(signer=signer, key_id=key_id, signature=made)


def verify(item: kernel.SignedObject, tag: str, signer: str, public: bytes) -> bytes:
    """Gives the body that `signer` has signed: these very bytes, which are never encoded again (§3.3)."""
    require(len(item.body) <= 1 << 20 and len(item.signatures) <= 64, "LIMIT_EXCEEDED", tag)
    named = [s for s in item.signatures if (s.signer, s.key_id) == (signer, sha256(public)[:8])]
    require(named, "SIGNATURE_INVALID", f"{tag} of {signer}")
    ed25519.Ed25519PublicKey.from_public_bytes(public).verify(named[0].signature, TAGS[tag] + item.body)
    return item.body


def labeled(key: bytes, suite: bytes, label: bytes, data: bytes, size: int = 0) -> bytes:
    """LabeledExtract of RFC 9180; with a size LabeledExpand, of the one block that is ever asked for."""
    before, after = (size.to_bytes(2), b"\1") if size else (b"", b"")
    return hmac.digest(key, before + b"HPKE-v1" + suite + label + data + after, "sha256")[: size or 32]


def hpke(dh: bytes, enc: bytes, public: bytes, party: str) -> tuple[AESGCM, bytes]:
    """Key and nonce of a wrap (§3.4); by hand, as libraries offer no associated data."""
    shared = labeled(labeled(bytes(32), KEM, b"eae_prk", dh), KEM, b"shared_secret", enc + public, 32)
    info = labeled(bytes(32), HPKE, b"info_hash", TAGS["hpke-info"] + party.encode())
    context = b"\0" + labeled(bytes(32), HPKE, b"psk_id_hash", b"") + info
    prk = labeled(shared, HPKE, b"secret", b"")
    return AESGCM(labeled(prk, HPKE, b"key", context, 16)), labeled(prk, HPKE, b"base_nonce", context, 12)


def seal(s: exchange.StreamId, before: bytes, run: list[Numbered], key: Any, to: dict[str, bytes]) -> bytes:
    """Seals a run of entries for the keys of all parties, under a key for this segment alone (§8.2)."""
    body = exchange.SegmentBody(entries=[exchange.SaltedEntry(salt=n.salt, entry=n.entry) for n in run])
    frame = zstandard.ZstdCompressor().compress(body.SerializeToString())
    plaintext, size = len(frame).to_bytes(4) + frame, len(frame) + 4
    if s.lane == kernel.LANE_ALERT:
        sizes = (1 << 10, 1 << 12, 1 << 14, -(-size // 65_536) * 65_536)
        plaintext += bytes(next(n for n in sizes if n >= size) - size)
    prefix = exchange.SegmentPrefix(format=1, suite=1, stream=s, first_seq=run[0].seq, count=len(run))
    prefix.key_id, prefix.h_before, prefix.h_after = signature("head", b"", "", key).key_id, before, run[-1].h
    prefix.expire_time.seconds = max(n.end_s for n in run)
    aad, once, wraps = prefix.SerializeToString(), os.urandom(16), exchange.Wraps()
    for party, public in sorted(to.items()):
        fresh, theirs = x25519.X25519PrivateKey.generate(), x25519.X25519PublicKey.from_public_bytes(public)
        enc = fresh.public_key().public_bytes_raw()
        wrapper, nonce = hpke(fresh.exchange(theirs), enc, public, party)
        wraps.wraps.add(party=party, enc=enc, ciphertext=wrapper.encrypt(nonce, once, aad))
    sealed, packed = AESGCM(once).encrypt(bytes(12), plaintext, aad), wraps.SerializeToString()
    made = signature("segment", aad + sha256(sealed) + sha256(packed), "", key).signature
    return exchange.Segment(prefix=aad, sealed=sealed, wraps=packed, signature=made).SerializeToString()


class Segment:
    """A segment that came: well formed, and of nobody until `open` has verified it (§8.3, §8.4)."""

    def __init__(self, encoded: bytes) -> None:
        self.raw = raw = exchange.Segment.FromString(encoded)
        four = {name: getattr(raw, name) for name in ("prefix", "sealed", "wraps", "signature")}
        require(exchange.Segment(**four).SerializeToString() == encoded, "FIELD_INVALID", "segment")
        self.prefix = p = exchange.SegmentPrefix.FromString(raw.prefix)
        require((p.format, p.suite) == (1, 1), "SUITE_UNKNOWN")
        require(p.first_seq and 1 <= p.count <= 512, "FIELD_INVALID", "seq")
        self.key, self.last_seq = stream_bytes(p.stream), p.first_seq + p.count - 1

    def open(self, origin: bytes, party: str, private: x25519.X25519PrivateKey) -> list[Numbered]:
        """Verifies it with the origin's key (anybody can seal to a party), opens it, follows its chain."""
        raw, aad = self.raw, self.raw.prefix
        signed = TAGS["segment"] + aad + sha256(raw.sealed) + sha256(raw.wraps)
        ed25519.Ed25519PublicKey.from_public_bytes(origin).verify(raw.signature, signed)
        mine = [w for w in exchange.Wraps.FromString(raw.wraps).wraps if w.party == party]
        require(self.prefix.key_id == sha256(origin)[:8] and mine, "NOT_A_PARTY", "key or wrap")
        dh = private.exchange(x25519.X25519PublicKey.from_public_bytes(mine[0].enc))
        opener, nonce = hpke(dh, mine[0].enc, private.public_key().public_bytes_raw(), party)
        plaintext = AESGCM(opener.decrypt(nonce, mine[0].ciphertext, aad)).decrypt(bytes(12), raw.sealed, aad)
        end = 4 + int.from_bytes(plaintext[:4])
        require(end <= len(plaintext) and not any(plaintext[end:]), "ENTRY_UNREADABLE", "padding")
        opened = zstandard.ZstdDecompressor().stream_reader(plaintext[4:end]).read((4 << 20) + 1)
        require(len(opened) <= 4 << 20, "LIMIT_EXCEEDED", "frame")
        body = exchange.SegmentBody.FromString(opened)
        require(len(body.entries) == self.prefix.count and not unknown_fields.UnknownFieldSet(body), "ENTRY_UNREADABLE")
        h, run = self.prefix.h_before, list[Numbered]()
        for seq, e in enumerate(body.entries, self.prefix.first_seq):
            require(len(e.salt) == 16 and len(e.entry) <= 131_072, "ENTRY_UNREADABLE", "salt or entry")
            h = link(seq, h, e.salt, e.entry)
            run.append(Numbered(seq, e.salt, e.entry, h, self.prefix.expire_time.seconds, "", b""))
        require(h == self.prefix.h_after, "CHAIN_BROKEN", "h_after")
        return run


def check_entry(n: Numbered, origin: str, agreed: bytes) -> Numbered:
    """Asks what §7.4 asks, but for bounds of texts and numbers; says what it is."""
    if n.entry == commitment(n.salt, n.entry):
        return n._replace(what="erased")
    entry, kind = exchange.Entry.FromString(n.entry), exchange.Entry.FromString(n.entry).WhichOneof("entry")
    wire = unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(n.entry))
    require(kind, "KIND_UNKNOWN")
    require(len({f.field_number for f in wire} & set(range(1, 6))) == 1, "ENTRY_UNREADABLE", "two kinds")
    item = getattr(entry, kind)
    if kind == "start":
        require(len(item.agreement_sha256) == 32, "FIELD_INVALID", "start")
        require(n.seq == 1 and item.agreement_sha256 == agreed, "AGREEMENT_UNKNOWN")
    if kind in ("start", "end"):
        return n._replace(what=kind)
    meta, well = (item.meta, True) if kind == "view" else (item, item.reason in REASONS[kind].values()[1:])
    require(kind != "view" or item.HasField("meta"), "ENTRY_UNREADABLE", "meta")
    require(meta.kind in PAYLOADS, "KIND_UNKNOWN")
    if kind == "view":
        require(len(item.payload) <= 65_536, "LIMIT_EXCEEDED", "payload")
        fields = [*PAYLOADS[meta.kind].FromString(item.payload).ListFields(), *meta.ListFields()]
        known = all(value in f.enum_type.values_by_number for f, value in fields if f.enum_type)
        marked = all(value.datum in (1, 2) for _, value in fields if isinstance(value, kernel.GeoPoint))
        staff = {"author_ref", "leader_ref", "roster_refs"} & {f.name for f, _ in fields}
        dated = all(meta.HasField(f"{when}_time") for when in ("occur", "record", "receive", "expire"))
        well = known and marked and dated and not staff and meta.retention_class
    if kind == "erase":
        seqs, sizes = [e.seq for e in item.entries], {len(e.commitment) for e in item.entries}
        well = well and sizes <= {32} and len(seqs) <= 2_000 and 0 not in seqs and seqs == sorted({*seqs})
    ids = UUID7.fullmatch(meta.record_id) and UUID7.fullmatch(meta.revision.epoch)
    require(well and ids and meta.revision.n and item.share_n, "FIELD_INVALID", "record")
    require({meta.birth_region, getattr(meta, "owner_region", origin)} == {origin}, "NOT_THE_OWNER")
    require(kind != "erase" or max(seqs, default=0) < n.seq, "NOT_THE_OWNER", "what comes later")
    r = meta.revision
    row = meta.record_id + r.t.to_bytes(4) + r.epoch + r.n.to_bytes(8) + item.share_n.to_bytes(8) + sha256(n.entry)
    return n._replace(what=kind, row=row)


class Stream:
    """A stream as it lies on disk, and what the present Link knows of it."""

    def __init__(self, id: exchange.StreamId) -> None:
        self.id, self.key = id, stream_bytes(id)
        self.entries = [Numbered(0, b"", b"", sha256(TAGS["genesis"], self.key), 0, "", b"")]  # h_0, then by seq
        lane = kernel.Lane.Name(id.lane).removeprefix("LANE_")
        self.label = f"{id.origin}/{id.epoch.hex()}/{id.agreement_id.hex()}/{id.agreement_version}/{lane}"
        self.stored, self.cut, self.tries, self.said, self.wanted = 0, 0, 0, time.monotonic(), list[Any]()

    @property
    def seq(self) -> int:
        return self.entries[-1].seq

    def h(self, seq: int) -> bytes:
        return self.entries[seq].h if seq <= self.seq else b""  # a place that is not known here

    def position(self) -> exchange.StreamPosition:
        return exchange.StreamPosition(stream=self.id, seq=self.seq, h=self.h(self.seq))


class Keys:
    def __init__(self, folder: str) -> None:
        k = json.loads((Path(folder) / "region.json").read_bytes())
        self.linkage, self.region, self.authority = k["linkage"], k["region"], k["authority"].encode()
        self.signing = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(k["signing"]))
        self.sealing = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(k["sealing"]))
        self.key: Any = serialization.load_pem_private_key(k["key"].encode(), None)

    def signed(self, tag: str, word: Any) -> kernel.SignedObject:
        getattr(word, "create_time", timestamp_pb2.Timestamp()).GetCurrentTime()
        body = word.SerializeToString()
        return kernel.SignedObject(body=body, signatures=[signature(tag, body, self.region, self.signing)])


def believe(trust: Path, agreed: kernel.SignedObject) -> tuple[Any, dict[str, Any], Agreement]:
    """Root, directory key, directory (§4.1); then the agreement, which all parties have signed (§4.2)."""
    held, root = TrustSet.FromString((trust / "linkage.signed").read_bytes()), (trust / "root.pub").read_bytes()
    key = DirectoryKey.FromString(verify(held.directory_key, "directory-key", "authority", root))
    listed, terms = Directory.FromString(verify(held.directory, "directory", "authority", key.key)), Agreement()
    in_time = key.create_time.ToNanoseconds() <= listed.create_time.ToNanoseconds() < key.expire_time.ToNanoseconds()
    require(in_time, "SIGNATURE_INVALID", "the directory key was out of date")
    terms.ParseFromString(agreed.body)
    regions, parties = {r.region_id: r for r in listed.regions}, [party.region_id for party in terms.parties]
    well = listed.linkage_id == key.linkage_id and len(regions) == len(listed.regions) and listed.gateways
    well = well and 2 <= len(parties) <= 64 and parties == sorted(regions.keys() & parties) and terms.version
    require(well, "FIELD_INVALID", "directory or agreement")
    for party in terms.parties:
        public = regions[party.region_id].signing_key
        require(sha256(public) == party.signing_key_sha256, "SIGNATURE_INVALID", party.region_id)
        verify(agreed, "agreement", party.region_id, public)
    return min(listed.gateways, key=lambda g: g.gateway_id), {name: regions[name] for name in parties}, terms


class Peer:
    """The region: what it believes, numbers, applies; in memory is what is on disk, and nothing else."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.keys, self.expect = Keys(args.dir), int(args.expect or 0) if args.expect or args.send else None
        self.lines = deque(enumerate(Path(args.send).read_bytes().splitlines() if args.send else []))
        self.me, self.alarms, self.streams = self.keys.region, list[dict[str, str]](), dict[bytes, Stream]()
        self.agreed = kernel.SignedObject.FromString(Path(args.agreement).read_bytes())
        self.gateway, self.parties, self.terms = believe(Path(args.trust), self.agreed)
        require(self.me in self.parties, "NOT_A_PARTY", self.me)
        self.db, self.finished = sqlite3.connect(Path(args.dir) / "peer.sqlite"), False
        self.db.executescript(SCHEMA)
        self.kept = dict(self.db.execute("SELECT name, value FROM kept"))
        self.places = defaultdict[tuple[str, bytes], set[tuple[Stream, int]]](set)  # of a record, by origin and id
        for name, *held in self.db.execute("SELECT * FROM entry ORDER BY stream, seq"):
            self.place(self.stream(exchange.StreamId.FromString(name)), Numbered(*held))
        self.keep({"epoch": self.kept.get("epoch") or uuid7()}, [])

    def keep(self, kept: dict[str, Any], added: list[tuple[Stream, Numbered]]) -> None:
        """One commit, flushed; then memory follows."""
        with self.db:
            self.db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", kept.items())
            rows = [(at.id.SerializeToString(), *n) for at, n in added]
            self.db.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.kept |= kept
        for at, n in added:
            self.place(at, n)

    def place(self, at: Stream, n: Numbered) -> None:
        require(n.h == link(n.seq, at.h(n.seq - 1), n.salt, n.entry), "CHAIN_BROKEN", at.label)
        at.entries[n.seq : n.seq + 1] = [n]
        self.places[at.id.origin, n.row[:16]].add((at, n.seq))

    def alarm(self, reason: str, detail: str) -> None:
        self.alarms.append({"reason": reason, "detail": detail})
        print(json.dumps({"alarm": self.alarms[-1]}, ensure_ascii=False), flush=True)

    def stream(self, id: exchange.StreamId) -> Stream:
        at, version = Stream(id), (self.terms.agreement_id, self.terms.version)
        require((id.agreement_id, id.agreement_version) == version, "AGREEMENT_UNKNOWN", at.label)
        require(id.origin in self.parties, "NOT_A_PARTY", at.label)
        return self.streams.setdefault(at.key, at)

    def those(self, ours: bool) -> list[Stream]:
        return [at for at in self.streams.values() if at.seq and (at.id.origin == self.me) == ours]

    def number(self) -> None:
        """Numbers some lines, each once, however often we start; what may not leave is not numbered."""
        start, end = self.terms.start_time.ToNanoseconds(), self.terms.end_time.ToNanoseconds()
        shows = start <= time.time_ns() < end and PLAIN in self.terms.clauses
        marks, added = dict[str, int](), list[tuple[Stream, Numbered]]()
        for n, text in [self.lines.popleft() for _ in range(min(64, len(self.lines)))]:
            mark, line = f"line {n} {sha256(text).hex()}", json.loads(text)
            if mark not in self.kept:
                marks[mark] = n
                added += self.entries(line, added) if shows and line["category"] not in AT_HOME else []
        self.keep(marks, added)

    def entries(self, line: dict[str, Any], before: list[Any]) -> list[tuple[Stream, Numbered]]:
        """The view of a new event, after START where it is the first (§7); `before` is not on disk yet."""
        domain, level = line.get("domain", "SAFETY"), line.get("level", "UNSPECIFIED")
        texts = {name: line[name] for name, most in LONGEST.items() if len(line[name].encode()) <= most}
        texts = {k: text for k, text in texts.items() if not NAMES_PERSON.search(re.sub(r"[\W_]", "", text))}
        event = risk.Event(domain=f"EVENT_DOMAIN_{domain}", level=f"EMERGENCY_LEVEL_{level}", **texts)
        event.point.lon, event.point.lat, event.point.datum = line["lon"], line["lat"], kernel.DATUM_WGS84
        event.source, event.state = risk.EVENT_SOURCE_PATROL, risk.EVENT_STATE_REPORTED
        epoch, now, days = self.kept["epoch"], int(time.time()), self.terms.retention_days or KEPT_DAYS
        meta = kernel.RecordMeta(record_id=uuid7(), birth_region=self.me, owner_region=self.me)
        meta.occur_time.seconds = meta.record_time.seconds = meta.receive_time.seconds = now
        meta.expire_time.seconds = end = now + min(days, KEPT_DAYS) * 86_400
        meta.kind, meta.retention_class = kernel.KIND_EVENT, kernel.RETENTION_CLASS_EVENT
        meta.revision.epoch, meta.revision.n, meta.sensitivity = epoch, 1, kernel.SENSITIVITY_REGION
        view = kernel.View(meta=meta, payload=event.SerializeToString(), share_n=1, unverified=True)
        view.withheld_fields.extend(name for name in (*LONGEST, "observation_id") if name not in texts)
        id = exchange.StreamId(origin=self.me, epoch=epoch, agreement_id=self.terms.agreement_id)
        id.agreement_version, id.lane = self.terms.version, LANES[0] if level in ("I", "II") else LANES[1]
        at, added = self.stream(id), []
        last = [at.entries[-1], *(n for other, n in before if other is at)][-1]
        seq, h, start = last.seq, last.h, exchange.Start(agreement_sha256=sha256(self.agreed.body))
        start.parents.extend(exchange.Parent(epoch=left) for left in [self.kept.get("left")] if left)
        for entry in [exchange.Entry(start=start), exchange.Entry(view=view)][seq > 0 :]:
            seq, salt, encoded = seq + 1, os.urandom(16), entry.SerializeToString()
            h = link(seq, h, salt, encoded)
            added.append((at, check_entry(Numbered(seq, salt, encoded, h, end, "", b""), self.me, start.agreement_sha256)))
        return added

    def take(self, at: Stream, came: Segment) -> None:
        """Applies what is new of a segment that joins on, in one commit (§12.1)."""
        run = came.open(self.parties[at.id.origin].signing_key, self.me, self.keys.sealing)
        new, added = at.seq + 1 - came.prefix.first_seq, list[Numbered]()
        require([came.prefix.h_before, *(n.h for n in run)][new] == at.h(at.seq), "STREAM_FORKED", at.label)
        for n in run[new:]:
            try:
                added.append(check_entry(n, at.id.origin, sha256(self.agreed.body)))
            except UNFIT as unfit:
                what = unfit.args[0] if isinstance(unfit, Refused) else "ENTRY_UNREADABLE"
                self.alarm(what, f"parked {n.seq} of {at.label}")
                added.append(n._replace(what=what))
        self.keep({}, [*((at, n) for n in added), *self.bare(at, added)])

    def bare(self, at: Stream, added: list[Numbered]) -> list[tuple[Stream, Numbered]]:
        """What stays of a record that was taken back, also if a view of it comes late, or was erased (§12.6)."""
        gone, run = list[tuple[Stream, Numbered]](), [*at.entries, *added]
        for record in {n.row[:16] for n in added if n.row}:
            held = [(other, other.entries[seq]) for other, seq in self.places[at.id.origin, record]]
            held += [(at, n) for n in added if n.row[:16] == record]
            if max(held, key=lambda it: it[1].row[16:52])[1].what in REASONS:
                gone += [(other, n._replace(what="emptied")) for other, n in held if n.what == "view"]
        for word in [exchange.Entry.FromString(n.entry).erase for n in added if n.what == "erase"]:
            named = [n for n in (run[e.seq] for e in word.entries) if word.record_id in n.row + n.entry]
            gone += [(at, n._replace(what="erased", row=b"")) for n in named]
        return [(other, n._replace(salt=bytes(16), entry=commitment(n.salt, n.entry))) for other, n in gone]

    def receipt(self, at: Stream) -> kernel.SignedObject:
        parked = [n for n in at.entries if n.what.isupper()]
        receipt = exchange.Receipt(position=at.position(), party=self.me, parked_count=len(parked))
        for n in parked[-100:]:
            receipt.parked.add(seq=n.seq, reason=ErrorReason.Value(f"ERROR_REASON_{n.what}"))
        return self.keys.signed("receipt", receipt)

    def receipted(self, at: Stream) -> int:
        return min(at.seq, *(self.kept.get(f"receipt {at.label} {p}", 0) for p in self.parties if p != self.me))

    def done(self) -> bool:
        views = sum(n.what == "view" for at in self.those(False) for n in at.entries)
        return views == self.expect and not self.lines and all(self.receipted(at) == at.seq for at in self.those(True))

    def summary(self) -> dict[str, Any]:
        """The last line; it counts views, without the START of each stream. Digests: §13."""
        received, parked, digests, ours = [], [], {}, self.those(True)
        for at in [*ours, *self.those(False)]:
            parked += [{"stream": at.label, "seq": n.seq, "reason": n.what} for n in at.entries if n.what.isupper()]
            rows = sorted(n.row for n in at.entries if n.what in ("view", "emptied"))
            digests[at.label] = sha256(*(row[:44] + row[52:] for row in rows)).hex()
            for n in [n for n in at.entries if n.what == "view" and at not in ours]:
                view = exchange.Entry.FromString(n.entry).view
                payload = PAYLOADS[view.meta.kind].FromString(view.payload)
                shown = {"record_id": view.meta.record_id.hex(), "origin": at.id.origin, "seq": n.seq}
                shown |= {"kind": kernel.Kind.Name(view.meta.kind), "lane": kernel.Lane.Name(at.id.lane)}
                shown |= {"text": getattr(payload, "text", "") or getattr(payload, "remark", "")}
                received.append(shown | {"unverified": view.unverified})
        ends = zip(*([(at.seq, min(at.stored, at.seq), self.receipted(at)) for at in ours] or [(0, 0, 0)]))
        views = {k: sum(max(n - 1, 0) for n in ns) for k, ns in zip(("sent", "stored", "receipted"), ends)}
        return views | {"received": received, "parked": parked, "digests": digests, "alarms": self.alarms}


class Link:
    """One call to the gateway (§9), from Challenge to its end."""

    def __init__(self, peer: Peer, call: Any) -> None:
        self.peer, self.call, self.opened, self.wait_s, self.pinged_s = peer, call, False, -1.0, 0.0
        self.first, self.due, self.coming = deque[service.LinkRequest](), set[Stream](), dict[int, bytes]()
        self.credit, self.going = Counter[int](), {lane: deque[service.LinkRequest]() for lane in LANES}

    def send(self, **frame: Any) -> None:
        self.first.append(service.LinkRequest(**frame))

    async def read(self) -> None:
        """Hears until the end; silence is a loss. A word of others that does not hold is an alarm."""
        while (frame := await asyncio.wait_for(self.call.read(), DEAD_S)) is not grpc.aio.EOF:
            kind = frame.WhichOneof("frame") or "nothing"
            self.wait_s = frame.come_back.after_ms / 1_000 if kind == "come_back" else -1.0
            if kind in ("trust", "agreement"):
                continue  # read from files at the next start (§4)
            if not hasattr(self, f"on_{kind}"):
                raise ConnectionError(kind)  # out of turn, unknown, or come_back
            try:
                getattr(self, f"on_{kind}")(getattr(frame, kind))
            except UNFIT as unfit:
                self.peer.alarm(unfit.args[0] if isinstance(unfit, Refused) else "UNFIT", f"{kind} {unfit!r}")
        raise ConnectionError("ended")

    async def write(self) -> None:
        """Says what waits, pings, and signs heads of silent streams (§9.5), until all is done."""
        while not self.peer.finished:
            now, ours = time.monotonic(), self.peer.those(True) if self.opened else []
            if self.opened and now - self.pinged_s > PING_S:
                self.pinged_s = now
                self.send(ping=service.Ping(token=int(now * 1_000)))
            for at in [at for at in ours if now - at.said > HEAD_S and at.cut == at.seq]:
                at.said = now
                self.send(head=self.peer.keys.signed("head", exchange.Head(position=at.position())))
            if frame := self.next_frame():
                await self.call.write(frame)
            else:
                self.peer.finished = self.opened and self.peer.done()
                await asyncio.sleep(IDLE_S)
        await self.call.done_writing()

    def next_frame(self) -> service.LinkRequest | None:
        """What goes first: pongs and the like, receipts, then pieces by lane (§9.2, §9.4)."""
        if self.first:
            return self.first.popleft()
        if self.due:
            return service.LinkRequest(receipt=self.peer.receipt(self.due.pop()))
        if self.opened and self.peer.lines:  # not before the gateway said how far it has our streams (§11.5)
            self.peer.number()
        for lane, going in self.going.items():
            mine = [at for at in self.peer.those(True) if at.id.lane == lane and at.tries < TRIES_MAX]
            ready = [at for at in mine if at.wanted or at.cut < at.seq]
            if ready and not going and self.credit[lane] >= SEGMENT_BYTES:
                self.cut(min(ready, key=lambda at: at.said), going)
            if going:
                self.credit[lane] -= len(going[0].piece.data)
                return going.popleft()
        return None

    def cut(self, at: Stream, going: deque[service.LinkRequest]) -> None:
        """Seals one segment: what is wanted, else what was not cut yet (§11.3, §11.4)."""
        if not at.wanted:
            at.wanted, at.cut = [(at.cut + 1, at.seq)], at.seq
        first, last = at.wanted.pop(0)
        run = at.entries[first : min(last, first + 511) + 1]
        run = run[: max(1, sum(size <= CUT_BYTES for size in accumulate(16 + len(n.entry) for n in run)))]
        if run[-1].seq < last:
            at.wanted.insert(0, (run[-1].seq + 1, last))
        to = {party: region.sealing_key for party, region in self.peer.parties.items()}
        segment, at.said = seal(at.id, at.h(first - 1), run, self.peer.keys.signing, to), time.monotonic()
        for offset in range(0, len(segment), PIECE_BYTES):
            piece = service.SegmentPiece(segment_id=sha256(segment)[:16], lane=at.id.lane, offset=offset)
            piece.total_size, piece.data = len(segment), segment[offset : offset + PIECE_BYTES]
            going.append(service.LinkRequest(piece=piece))

    def on_challenge(self, challenge: Any) -> None:
        hello = exchange.Hello(region_id=self.peer.me, nonce=challenge.nonce, protocol=1, lanes=LANES)
        hello.gateway_id, hello.software = self.peer.gateway.gateway_id, "wuling-peer-python 1"
        hello.applied.extend(at.position() for at in self.peer.those(False)[:10_000])
        self.send(hello=self.peer.keys.signed("hello", hello))

    def on_welcome(self, welcome: Any) -> None:
        """The Link is open: first the agreement and receipts, then on from where the gateway is."""
        self.opened, self.due = True, set(self.peer.those(False))
        self.send(agreement=self.peer.agreed)
        for at in self.peer.streams.values():
            at.stored, at.tries, at.wanted, at.said = 0, 0, [], time.monotonic()
        for position in welcome.stored:
            self.on_stored(position)
        for at in self.peer.those(True):
            at.cut = min(at.stored, at.seq)

    def on_ping(self, ping: Any) -> None:
        if not ping.reply:
            self.first.appendleft(service.LinkRequest(ping=service.Ping(reply=True, token=ping.token)))

    def on_credit(self, credit: Any) -> None:
        if credit.lane not in self.credit:
            self.send(credit=service.Credit(lane=credit.lane, size=WINDOW_BYTES))
        self.credit[credit.lane] += credit.size

    def on_refusal(self, refusal: Any) -> None:
        reason = ErrorReason.Name(refusal.reason).removeprefix("ERROR_REASON_")
        self.peer.alarm(reason, f"the gateway refuses: {refusal.detail}")
        if refusal.fatal:
            raise ConnectionError(reason)

    def on_piece(self, piece: Any) -> None:
        """Gathers a segment (§9.4), one a lane; so its bytes are free again as they come."""
        data = (self.coming.pop(piece.lane, b"") if piece.offset else b"")[: piece.offset] + piece.data
        fits = piece.offset + len(piece.data) == len(data) <= piece.total_size <= SEGMENT_BYTES
        whole = len(data) == piece.total_size
        if not fits or not piece.data or whole and sha256(data)[:16] != piece.segment_id:
            raise ConnectionError("PROTOCOL_VIOLATION")
        self.send(credit=service.Credit(lane=piece.lane, size=len(piece.data)))
        self.coming[piece.lane] = data
        if whole:
            self.segment(Segment(self.coming.pop(piece.lane)))

    def segment(self, segment: Segment) -> None:
        """Takes a segment; wants it again, twice at most, if it does not hold (§12.2)."""
        at = self.peer.stream(segment.prefix.stream)
        require(at.id.origin != self.peer.me, "NOT_A_PARTY", "our own")
        try:
            if segment.prefix.first_seq <= at.seq + 1 <= segment.last_seq and at.tries < TRIES_MAX:
                self.peer.take(at, segment)
                at.tries, self.due = 0, self.due | {at}
            elif segment.last_seq > at.seq and at.tries == 0:
                self.want(at, 1)
        except UNFIT as unfit:
            self.want(at, TRIES_MAX if unfit.args[:1] == ("STREAM_FORKED",) else 1)
            raise

    def want(self, at: Stream, tries: int) -> None:
        at.tries += tries
        if at.tries < TRIES_MAX:
            self.send(want=service.Want(stream=at.id, from_seq=at.seq + 1))

    def on_want(self, want: Any) -> None:
        """From here to the end, or a range that must end where it says (§11.3)."""
        at = self.peer.stream(want.stream)
        if want.to_seq == 0:
            at.wanted, at.cut = [], min(max(want.from_seq, 1) - 1, at.seq)
            self.going[at.id.lane].clear()
        elif 1 <= want.from_seq <= want.to_seq <= at.seq and len(at.wanted) < 64:
            at.wanted.insert(0, (want.from_seq, want.to_seq))

    def on_stored(self, position: Any, signer: str = "") -> Stream:
        """Holds a place that somebody has of a stream against our own chain."""
        at = self.peer.stream(position.stream)
        if at.h(position.seq) not in (b"", position.h):
            at.tries = TRIES_MAX
            raise Refused("STREAM_FORKED", at.label)
        present = at.id.origin == self.peer.me and at.id.epoch >= self.peer.kept["epoch"]
        if position.seq > at.seq and (present or signer == self.peer.me):
            self.peer.alarm("WENT_BACK", at.label)  # our numbers are taken: on in a new epoch (§11.5)
            self.peer.keep({"epoch": uuid7(), "left": self.peer.kept["epoch"]}, [])
        at.stored = max(at.stored, position.seq)
        return at

    def on_head(self, item: Any) -> None:
        head, signer = self.word("head", exchange.Head, item)
        require(signer == head.position.stream.origin != self.peer.me, "SIGNATURE_INVALID", "head")
        at = self.on_stored(head.position)
        if head.position.seq > at.seq and at.id.lane not in self.coming:
            self.want(at, 1)

    def on_receipt(self, item: Any) -> None:
        receipt, signer = self.word("receipt", exchange.Receipt, item)
        require(signer == receipt.party != receipt.position.stream.origin, "SIGNATURE_INVALID", "receipt")
        at, seq = self.on_stored(receipt.position, signer), receipt.position.seq
        require(len(receipt.parked) <= receipt.parked_count <= seq, "FIELD_INVALID", "parked")
        name = f"receipt {at.label} {signer}"
        if at.id.origin == self.peer.me and seq > self.peer.kept.get(name, 0):
            self.peer.keep({name: seq}, [])
            if receipt.parked_count:
                self.peer.alarm("PARKED", f"{receipt.parked_count} of {at.label} by {signer}")

    def word(self, tag: str, kind: Any, item: kernel.SignedObject) -> tuple[Any, str]:
        signer = item.signatures[0].signer if len(item.signatures) == 1 else ""
        require(signer in self.peer.parties and len(item.body) <= 8_192, "NOT_A_PARTY", f"{tag} of {signer}")
        return kind.FromString(verify(item, tag, signer, self.peer.parties[signer].signing_key)), signer


async def run(args: SimpleNamespace) -> dict[str, Any]:
    """Dials until all is done or the time is over; waits longer after each loss in a row (§9.5)."""
    peer, losses, end = Peer(args), 0, time.monotonic() + float(args.seconds)
    root = x509.load_der_x509_certificate(peer.gateway.authority_certificate).public_bytes(FORM.PEM)
    credentials = grpc.ssl_channel_credentials(root, *issue(peer.keys.linkage, peer.me, peer.keys))
    name = f"{peer.gateway.gateway_id}.gateway.{peer.keys.linkage}.internal"
    options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
    while not peer.finished and time.monotonic() < end:
        async with grpc.aio.secure_channel(args.gateway_endpoint, credentials, options) as channel:
            link = Link(peer, ExchangeServiceStub(channel).Link())
            try:
                async with asyncio.timeout(end - time.monotonic()), asyncio.TaskGroup() as tasks:
                    tasks.create_task(link.read())
                    tasks.create_task(link.write())
            except* (ConnectionError, grpc.RpcError, TimeoutError, asyncio.InvalidStateError):
                losses = 0 if link.opened else losses + 1
        wait_s = random.uniform(0, min(BACKOFF_MAX_S, 0.2 * 2**losses)) if link.wait_s < 0 else link.wait_s
        await asyncio.sleep(0 if peer.finished else min(wait_s, max(end - time.monotonic(), 0)))
    return peer.summary()


def issue(linkage: str, region: str, by: Keys | None) -> tuple[bytes, bytes]:
    """A fresh key and its chain: the region's authority if nobody issues it, else a client of it (§5.1)."""
    fresh, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = region if by else f"{linkage} region/{region} authority"[:64]
    subject = x509.Name.from_rfc4514_string(f"CN={name}")
    issuer = x509.load_pem_x509_certificate(by.authority).subject if by else subject
    span = (now - timedelta(minutes=10), now + timedelta(30 if by else 3_650))
    made = x509.CertificateBuilder(issuer, subject, fresh.public_key(), x509.random_serial_number(), *span)
    use = x509.KeyUsage(bool(by), False, False, False, False, not by, not by, False, False)
    made = made.add_extension(x509.BasicConstraints(not by, None if by else 0), True).add_extension(use, True)
    if by:
        uri = x509.UniformResourceIdentifier(f"spiffe://{linkage}/region/{region}")
        names = [uri, x509.DNSName(f"{region}.region.{linkage}.internal")]
        made = made.add_extension(x509.SubjectAlternativeName(names), False)
        made = made.add_extension(x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH]), False)
    pem = fresh.private_bytes(FORM.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = made.sign(by.key if by else fresh, hashes.SHA256()).public_bytes(FORM.PEM)
    return pem, shown + (by.authority if by else b"")


def init(args: SimpleNamespace) -> dict[str, Any]:
    """Makes the keys of a region, never over old ones, and its card (§4.3)."""
    key, authority = issue(args.linkage, args.region, None)
    kept = {"linkage": args.linkage, "region": args.region, "signing": os.urandom(32).hex()}
    kept |= {"sealing": os.urandom(32).hex(), "key": key.decode(), "authority": authority.decode()}
    Path(args.dir).mkdir(parents=True, mode=0o700, exist_ok=True)
    with open(os.open(f"{args.dir}/region.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(kept, file)
    keys, card = Keys(args.dir), Directory(linkage_id=args.linkage, version=1)
    card.create_time.GetCurrentTime()
    region = card.regions.add(region_id=args.region, name_zh=args.name_zh, name_en=args.name_en)
    region.level = RegionLevel.Value(f"REGION_LEVEL_{args.level.upper()}")
    region.signing_key = keys.signing.public_key().public_bytes_raw()
    region.sealing_key = keys.sealing.public_key().public_bytes_raw()
    region.authority_certificate = x509.load_pem_x509_certificate(authority).public_bytes(FORM.DER)
    Path(args.card).write_bytes(card.SerializeToString())
    return {"region": args.region, "card": args.card}


def sign(args: SimpleNamespace) -> dict[str, Any]:
    """Adds our signature to an agreement that names us by our key; what others have signed stays (§4.2)."""
    keys, item = Keys(args.dir), kernel.SignedObject.FromString(Path(args.file).read_bytes())
    pins = {(p.region_id, p.signing_key_sha256) for p in Agreement.FromString(item.body).parties}
    require((keys.region, sha256(keys.signing.public_key().public_bytes_raw())) in pins, "NOT_A_PARTY")
    if keys.region not in [s.signer for s in item.signatures]:
        item.signatures.append(signature("agreement", item.body, keys.region, keys.signing))
        Path(args.file).write_bytes(item.SerializeToString())
    return {"signed": keys.region, "signers": [s.signer for s in item.signatures]}


def main(command: str, first: str, *words: str) -> dict[str, Any]:
    args = {name.lstrip("-").replace("-", "_"): value for name, value in zip(words[::2], words[1::2])}
    given = {"dir": first, "file": words[0] if words else first, "expect": "", "send": "", "seconds": "1e9"}
    act: Any = {"init": init, "sign": sign, "run": lambda args: asyncio.run(run(args))}
    return act[command](SimpleNamespace(**given | args))


if __name__ == "__main__":
    try:
        print(json.dumps(main(*sys.argv[1:]), ensure_ascii=False))
    except Exception as failed:  # whatever it is, who called us reads JSON
        failed = getattr(failed, "exceptions", [failed])[0]
        print(json.dumps({"error": type(failed).__name__, "detail": str(failed)}, ensure_ascii=False))
        sys.exit(1)
