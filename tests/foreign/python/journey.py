"""What a county's own program does with a region of its neighbour, step by step; prints JSON.

    journey.py enrol FOLDER CODE     trade an enrolment code for an identity, kept in FOLDER
    journey.py offline FOLDER        a morning without signal: write everything down, reach nobody
    journey.py work FOLDER           signal again: push, pull, watch, sync, and be refused
    journey.py neighbour FOLDER N    the other region's side: watch until it shows N records
    journey.py persist FOLDER        push until the server cannot write, then as it says

`tests/it/foreign_python.rs` runs them against real servers. The exit code is 1 after a refusal and
2 when the server is not the one that the code names; the JSON then says what it was.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from wuling.device.v1 import device_service_pb2 as device
from wuling.device.v1 import device_service_pb2_grpc as device_grpc
from wuling.kernel.v1 import error_pb2 as error
from wuling.kernel.v1 import record_pb2 as record
from wuling.patrol.v1 import patrol_pb2 as patrol
from wuling.risk.v1 import risk_pb2 as risk
from wuling.risk.v1 import risk_service_pb2 as desk
from wuling.risk.v1 import risk_service_pb2_grpc as desk_grpc
from wuling_client import (
    BATCH_BYTES_MAX,
    EnrolmentCode,
    Identity,
    Outbox,
    PinMismatch,
    Refusal,
    Region,
    enrol,
    timestamp,
    uuid7,
)

HOUR_S = 3_600.0
TRIES_MAX = 30


def event(text: str) -> risk.Event:
    """An event as a patrol reports it."""
    return risk.Event(
        domain=risk.EVENT_DOMAIN_SAFETY,
        category="GEOLOGICAL",
        emergency_class=risk.EMERGENCY_CLASS_NATURAL_DISASTER,
        place="黑溪桥头",
        # As the map kits of phones give it; the region keeps WGS-84.
        point=record.GeoPoint(
            lon=108.7625,
            lat=29.6615,
            accuracy_m=8,
            datum=record.DATUM_GCJ02,
            source=record.FIX_SOURCE_MAP,
        ),
        text=text,
        source=risk.EVENT_SOURCE_PATROL,
    )


def report(text: str) -> device.Operation:
    """Reports an event."""
    return device.Operation(report_event=event(text))


def shift_and_patrol() -> list[device.Operation]:
    """Opens a shift, plans a patrol in it and sets out: each rests on the one before."""
    shift = device.Operation(
        operation_id=uuid7(),
        record_id=uuid7(),
        open_shift=patrol.Shift(unit="unit-1", station="小南海站", staff_count=2),
    )
    plan = device.Operation(
        operation_id=uuid7(),
        record_id=uuid7(),
        parent_ids=[shift.operation_id],
        plan_patrol=patrol.Patrol(
            shift_id=shift.record_id,
            route="中坝河左岸",
            route_kind=patrol.ROUTE_KIND_BORDER,
            member_count=2,
        ),
    )
    start = device.Operation(
        operation_id=uuid7(),
        record_id=plan.record_id,
        parent_ids=[plan.operation_id],
        patrol_transition=device.PatrolTransition(
            verb=patrol.PATROL_VERB_START, mode=patrol.PATROL_MODE_FOOT
        ),
    )
    return [shift, plan, start]


def offline(folder: Path) -> dict[str, Any]:
    """Writes a morning's work down, tries to send it, and keeps it."""
    identity, outbox = Identity.load(folder), Outbox(folder)
    for operation in shift_and_patrol():
        outbox.add(operation, seconds_ago=3 * HOUR_S)
    outbox.add(report("桥头落石，路半幅不通"), seconds_ago=2 * HOUR_S)
    outbox.add(report("请联系 13812345678"), seconds_ago=HOUR_S)
    with identity.channel() as channel:
        try:
            Region(channel).push(outbox.batch(identity))
        except grpc.RpcError as refused:
            return {"refusal": asdict(Refusal.of(refused)), "waiting": len(outbox.waiting())}
    raise AssertionError("there is a server, and should be none")


class Journey:
    """A device with signal."""

    def __init__(self, folder: Path, channel: grpc.Channel, tamper: bool) -> None:
        self.identity = Identity.load(folder)
        self.outbox = Outbox(folder)
        self.region = Region(channel)
        self.stub = device_grpc.DeviceServiceStub(channel)
        self.desk = desk_grpc.RiskServiceStub(channel)
        self.tamper = tamper
        self.cursor = device.Cursor()

    def batch(self) -> device.SignedBatch:
        """What waits, signed; with --tamper, one bit of the signature is another."""
        batch = self.outbox.batch(self.identity)
        if self.tamper:
            batch.signature = batch.signature[:-1] + bytes([batch.signature[-1] ^ 1])
        return batch

    def push(self, *operations: device.Operation) -> list[dict[str, Any]]:
        """Writes operations down, pushes all that waits, files what is settled."""
        for operation in operations:
            self.outbox.add(operation)
        return self.settled(self.region.push(self.batch()))

    def settled(self, answer: device.PushResponse) -> list[dict[str, Any]]:
        """Files what is settled; gives the results in words."""
        self.outbox.settle(answer.results)
        return [in_words(result) for result in answer.results]

    def backlog(self) -> dict[str, Any]:
        """Pushes what was queued offline, and the very same bytes again, as after a lost answer."""
        batch = self.batch()
        first, again = self.region.push(batch), self.region.push(batch)
        return {"first": self.settled(first), "again": self.settled(again)}

    def out_of_order(self) -> dict[str, Any]:
        """A patrol before its shift is held until the shift comes, then follows by itself."""
        shift, plan, start = shift_and_patrol()
        child = self.push(plan, start)
        waiting = len(self.outbox.waiting())
        both = self.push(shift)
        return {"child": child, "waiting": waiting, "both": both, "asked": self.push()}

    def conflict(self) -> list[dict[str, Any]]:
        """Changes a patrol as it was, not as it is; then on the revision that the answer shows."""
        shift, plan, start = shift_and_patrol()
        self.push(shift, plan, start)
        pause = device.Operation(
            record_id=plan.record_id,
            base_revision=record.Revision(epoch=self.identity.epoch, n=1),
            patrol_transition=device.PatrolTransition(verb=patrol.PATROL_VERB_PAUSE),
        )
        (stale,) = self.push(pause)
        pause.base_revision.n = stale["revision"]
        (on_present,) = self.push(pause)
        return [stale, on_present]

    def pull(self) -> dict[str, Any]:
        """Reads all that is there, two changes a page; the cursor is where to go on tomorrow."""
        changes = list(self.region.changes(self.cursor, page_size=2))
        events = [c.record for c in changes if c.record.meta.kind == record.KIND_EVENT]
        first = risk.Event.FromString(events[0].payload)
        return {
            "records": [change.record.meta.record_id.hex() for change in changes],
            "after": len(list(self.region.changes(self.cursor))),
            "text": first.text,
            "datum": record.Datum.Name(first.point.datum),
            "lon": first.point.lon,
            "age_s": events[0].meta.receive_time.seconds - events[0].meta.occur_time.seconds,
        }

    def watch(self) -> dict[str, Any]:
        """Sees a record come while watching."""
        stream = self.region.watch(self.cursor)
        operation = report("河水上涨")
        self.push(operation)
        return {"sent": operation.record_id.hex(), "seen": self.first_change(stream)}

    def first_change(self, stream: Any) -> str:
        """The first record that a watch shows; a message without changes is a sign of life."""
        for message in stream:
            for change in message.changes:
                stream.cancel()
                self.cursor.CopyFrom(change.cursor)
                return str(change.record.meta.record_id.hex())
        raise AssertionError("the watch ended")

    def sync(self) -> dict[str, Any]:
        """Watches and pushes on one stream."""
        words: queue.SimpleQueue[device.SyncRequest | None] = queue.SimpleQueue()
        stream = self.region.sync(iter(words.get, None))
        watch = device.WatchRequest(cursor=self.cursor, purpose=record.PURPOSE_DUTY)
        words.put(device.SyncRequest(watch=watch))
        operation = self.outbox.add(report("山体裂缝"))
        push = device.PushRequest(signed_batch=self.batch())
        words.put(device.SyncRequest(push=push))
        told: dict[str, Any] = {"sent": operation.record_id.hex()}
        for answer in stream:
            if answer.HasField("push"):
                told["answer"] = self.settled(answer.push)
            for change in answer.watch.changes:
                told["seen"] = change.record.meta.record_id.hex()
            if {"answer", "seen"} <= told.keys():
                break
        words.put(None)
        stream.cancel()
        return told

    def refusals(self) -> dict[str, Any]:
        """Each way of being refused, with its details."""
        duty = record.PURPOSE_DUTY
        elsewhere = device.Cursor(epoch=uuid7(), feed_seq=1)
        pull, push = self.stub.Pull, self.region.push
        stranger = device.Batch(region_id=self.identity.region, device_id=uuid7())
        late = desk.ReportEventRequest(
            request_id=uuid7(), record_id=uuid7(), occur_time=timestamp(), event=event("落石")
        )
        calls: dict[str, Callable[[], Any]] = {
            "no_purpose": lambda: pull(device.PullRequest()),
            "page_size": lambda: pull(device.PullRequest(page_size=5_000, purpose=duty)),
            "other_epoch": lambda: pull(device.PullRequest(cursor=elsewhere, purpose=duty)),
            "no_operations": lambda: push(self.batch()),
            "too_large": lambda: push(device.SignedBatch(batch=bytes(BATCH_BYTES_MAX + 1))),
            "stranger": lambda: push(self.identity.sign(stranger)),
            "no_batch": lambda: self.stub.Push(device.PushRequest()),
            "role": lambda: self.desk.ReportEvent(late),
            "code": lambda: self.stub.Enrol(
                device.EnrolRequest(region_id=self.identity.region, code="x")
            ),
        }
        with self.identity.channel(with_certificate=False) as bare:
            calls["no_certificate"] = lambda: next(Region(bare).changes(device.Cursor()))
            return {name: asdict(refusal(call)) for name, call in calls.items()}


def work(folder: Path, tamper: bool) -> dict[str, Any]:
    """Everything that is done with signal, in order."""
    with Identity.load(folder).channel() as channel:
        journey = Journey(folder, channel, tamper)
        return {
            "backlog": journey.backlog(),
            "out_of_order": journey.out_of_order(),
            "conflict": journey.conflict(),
            "pull": journey.pull(),
            "watch": journey.watch(),
            "sync": journey.sync(),
            "refusals": journey.refusals(),
            "waiting": len(journey.outbox.waiting()),
        }


def neighbour(folder: Path, count: int) -> dict[str, Any]:
    """Watches the other region until it shows `count` records of its neighbour."""
    views: dict[str, dict[str, Any]] = {}
    with Identity.load(folder).channel() as channel:
        stream = Region(channel).watch(device.Cursor())
        for message in stream:
            for change in message.changes:
                if change.HasField("view"):
                    views[change.view.view.meta.record_id.hex()] = in_view(change.view)
            if len(views) >= count:
                stream.cancel()
                break
    return views


def in_view(shown: device.NeighbourView) -> dict[str, Any]:
    """A neighbour's record as the agreement lets this region see it."""
    return {
        "kind": record.Kind.Name(shown.view.meta.kind),
        "from": shown.source.origin_region,
        "unverified": shown.view.unverified,
        "withheld": list(shown.view.withheld_fields),
    }


def persist(folder: Path) -> dict[str, Any]:
    """Pushes until the server cannot write, then sends the same again when it says to."""
    identity, outbox = Identity.load(folder), Outbox(folder)
    refused: list[dict[str, Any]] = []
    with identity.channel() as channel:
        region = Region(channel)
        for _ in range(TRIES_MAX):
            batch = many(identity, outbox)
            while len(refused) < TRIES_MAX:
                try:
                    answer = region.push(batch)
                    break
                except grpc.RpcError as error_:
                    found = Refusal.of(error_)
                    if found.retry_after_s is None:
                        raise
                    refused.append(asdict(found))
                    print(json.dumps(refused[-1], ensure_ascii=False), flush=True)
                    time.sleep(found.retry_after_s)
            if refused:
                return {"refused": len(refused), "outcomes": outcomes(answer)}
    raise AssertionError("the server can always write")


def many(identity: Identity, outbox: Outbox) -> device.SignedBatch:
    """A large batch, none of which is worth keeping."""
    operation = outbox.add(report("路面积水" * 100))
    batch = device.Batch(region_id=identity.region, device_id=identity.device_id)
    batch.send_time.CopyFrom(timestamp())
    for _ in range(500):
        operation.operation_id, operation.record_id = uuid7(), uuid7()
        batch.operations.append(operation)
    return identity.sign(batch)


def outcomes(answer: device.PushResponse) -> list[str]:
    """The outcomes, each once."""
    return sorted({device.Outcome.Name(result.outcome) for result in answer.results})


def in_words(result: device.OperationResult) -> dict[str, Any]:
    """A result as people read it."""
    return {
        "outcome": device.Outcome.Name(result.outcome).removeprefix("OUTCOME_"),
        "reason": error.ErrorReason.Name(result.reason).removeprefix("ERROR_REASON_"),
        "revision": result.revision.n,
        "violations": {v.field: v.description for v in result.field_violations},
    }


def refusal(call: Callable[[], Any]) -> Refusal:
    """How a call is refused."""
    try:
        call()
    except grpc.RpcError as refused:
        return Refusal.of(refused)
    raise AssertionError("it was not refused")


def main() -> int:
    """Runs one step and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("enrol", "offline", "work", "neighbour", "persist"):
        steps.add_parser(name).add_argument("folder", type=Path)
    steps.choices["enrol"].add_argument("code")
    steps.choices["neighbour"].add_argument("count", type=int)
    steps.choices["work"].add_argument("--tamper", choices=["signature"])
    chosen = parser.parse_args()
    try:
        told = run(chosen)
    except grpc.RpcError as refused:
        told, status = {"refusal": asdict(Refusal.of(refused))}, 1
    except PinMismatch as mismatch:
        told, status = {"error": str(mismatch)}, 2
    else:
        status = 0
    print(json.dumps(told, ensure_ascii=False))
    return status


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Runs one step."""
    folder: Path = chosen.folder
    if chosen.step == "enrol":
        identity = enrol(EnrolmentCode.parse(chosen.code), model="python grpcio")
        identity.save(folder)
        role = record.Role.Name(identity.role)
        return {"device_id": identity.device_id.hex(), "role": role, "region": identity.region}
    if chosen.step == "offline":
        return offline(folder)
    if chosen.step == "neighbour":
        return neighbour(folder, chosen.count)
    if chosen.step == "persist":
        return persist(folder)
    return work(folder, chosen.tamper is not None)


if __name__ == "__main__":
    sys.exit(main())
