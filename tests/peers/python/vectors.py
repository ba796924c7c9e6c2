"""Holds the peer's arithmetic against the test vectors (§20), but for that of `batch`, which is for phones."""

import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from wuling.directory.v1.directory_pb2 import TrustSet
from wuling.exchange.v1 import exchange_pb2 as exchange
from wuling_peer import TAGS, Segment, commitment, link, require, sha256, signature, stream_bytes

SIGNED = ("receipt", "head", "hello")
Found = list[tuple[Any, Any]]


def chains(v: Any) -> Found:
    found = Found()
    for chain in v["chain"]:
        ids = {name: bytes.fromhex(chain["stream"][name]) for name in ("epoch", "agreement_id")}
        name = stream_bytes(exchange.StreamId(**chain["stream"] | ids | {"lane": f"LANE_{chain['stream']['lane']}"}))
        h = sha256(TAGS["genesis"], name)
        found += [(chain["stream_bytes"], name), (chain["genesis"], h)]
        for item in chain["links"]:
            salt, entry, before = bytes.fromhex(item["salt"]), bytes.fromhex(item["entry"]), h
            c, h = commitment(salt, entry), link(item["seq"], before, salt, entry)
            # Erased, it is its commitment, and the chain leads on as before (§6).
            found += [(item["commitment"], c), (item["h"], h), (item["h"], link(item["seq"], before, bytes(16), c))]
    return found


def signed(v: Any) -> Found:
    """The signed objects, and the three parts of a trust set, which are the ones in its bytes."""
    found, trust = Found(), TrustSet.FromString(bytes.fromhex(v["trust"]["bytes"]))
    parts = {name.replace("_", "-"): part for name, part in v["trust"]["parts"].items()}
    for tag, item in [*((tag, v[tag]) for tag in SIGNED), *parts.items()]:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(item["seed"]))
        made = signature(tag, bytes.fromhex(item["body"]), item["signer"], key)
        found += [(item["public"], key.public_key().public_bytes_raw())]
        found += [(item["key_id"], made.key_id), (item["signature"], made.signature)]
    for name, part in v["trust"]["parts"].items():
        held = getattr(trust, name)
        found += [(part["body"], held.body), (part["signature"], held.signatures[0].signature)]
    return found


def segment(v: Any) -> Found:
    item, chain = v["segment"], v["chain"][0]
    came, found = Segment(bytes.fromhex(item["bytes"])), Found()
    for party, secret in item["sealing_private"].items():
        private = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        run = came.open(bytes.fromhex(item["signing_public"]), party, private)
        found += [(each["entry"], n.entry) for each, n in zip(chain["links"], run, strict=True)]
        found += [(item["h_after"], run[-1].h), (item["first_seq"], run[0].seq), (item["count"], len(run))]
    return found + [(item["segment_id"], sha256(bytes.fromhex(item["bytes"]))[:16]), (chain["stream_bytes"], came.key)]


def main(file: str) -> dict[str, Any]:
    v = json.loads(Path(file).read_bytes())
    found = [(tag, TAGS[name]) for name, tag in v["tags"].items()] + chains(v) + signed(v) + segment(v)
    for told, value in found:
        require(told == (value if isinstance(value, int) else value.hex()), "FIELD_INVALID", str(told))
    return {"checked": len(found)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
