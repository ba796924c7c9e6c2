//! The stores of a world, read beside the servers that own them.

use super::checker::{Ack, Shown};
use domain::kernel::RecordId;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A store of a region or gateway, for reading only.
pub(crate) struct Store(Connection);

/// How far streams are, by the bytes of their ids.
pub(crate) type Positions = BTreeMap<Vec<u8>, u64>;

impl Store {
    pub(crate) fn open(path: &Path) -> Self {
        Self(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap())
    }

    /// The acknowledgements that a region's store knows nothing of, or otherwise than they said.
    pub(crate) fn missing(&self, acks: &[Ack]) -> Vec<String> {
        let sql = "SELECT revision_n FROM operation WHERE operation_id = ?1 AND outcome = 1";
        let mut statement = self.0.prepare(sql).unwrap();
        let mut revision = |ack: &Ack| -> Option<u64> {
            let row =
                statement.query_row([ack.operation.as_bytes().as_slice()], |row| number(row, 0));
            row.optional().unwrap()
        };
        let missing = acks.iter().filter(|ack| revision(ack) != Some(ack.revision));
        missing.map(|ack| format!("P1: {} is not in the store", ack.record)).collect()
    }

    /// How far the streams go that are written or stored here.
    pub(crate) fn written(&self) -> Positions {
        self.positions("SELECT stream_id, last_seq FROM stream")
    }

    /// How far a party says that it has applied each stream, as its newest receipt here says.
    pub(crate) fn receipted(&self, party: &str) -> Positions {
        let receipts =
            "SELECT s.stream_id, r.seq FROM receipt r JOIN stream s USING (stream_no) WHERE party";
        self.positions(&format!("{receipts} = '{party}'"))
    }

    /// How far a region has applied each stream that it receives.
    pub(crate) fn applied(&self) -> Positions {
        self.positions("SELECT stream_id, applied_seq FROM inbox")
    }

    fn positions(&self, sql: &str) -> Positions {
        let mut statement = self.0.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, number(row, 1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// The streams of which the counts do not add up: what was written is in the outbox, and what was
    /// applied is a view or parked, but for the entry that opens the stream.
    pub(crate) fn sums(&self) -> Vec<String> {
        let written =
            "SELECT s.last_seq, coalesce(sum(o.last_seq - o.first_seq + 1), 0) FROM stream s
            LEFT JOIN outbox o USING (stream_no) GROUP BY s.stream_no";
        let applied = "SELECT applied_seq, min(applied_seq, 1)
              + (SELECT count(*) FROM view v WHERE v.inbox_no = i.inbox_no)
              + (SELECT count(*) FROM parked p WHERE p.inbox_no = i.inbox_no) FROM inbox i";
        let mut faults = Vec::new();
        for (what, sql) in [("written", written), ("applied", applied)] {
            let mut statement = self.0.prepare(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let (said, found) = (number(row, 0).unwrap(), number(row, 1).unwrap());
                if said != found {
                    faults.push(format!("P2: {said} {what}, {found} found"));
                }
            }
        }
        faults
    }

    /// How many rows the records of a region have, and the revision each stands at.
    pub(crate) fn records(&self) -> (usize, BTreeSet<Shown>) {
        self.shown("SELECT record_id, revision_n FROM record")
    }

    /// The same of the views that a region was given.
    pub(crate) fn views(&self) -> (usize, BTreeSet<Shown>) {
        self.shown("SELECT record_id, revision_n FROM view")
    }

    fn shown(&self, sql: &str) -> (usize, BTreeSet<Shown>) {
        let mut statement = self.0.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            let id: Vec<u8> = row.get(0)?;
            Ok((RecordId::from_slice(&id).unwrap(), number(row, 1)?))
        });
        let rows: Vec<Shown> = rows.unwrap().map(Result::unwrap).collect();
        (rows.len(), rows.into_iter().collect())
    }

    /// The streams of which the entries here are not one after another, from the first to the last: what
    /// an origin has written, or what a recipient has applied, in the order in which it did.
    pub(crate) fn holes(&self) -> Vec<String> {
        let written =
            "SELECT stream_no, first_seq, last_seq, 1 FROM outbox ORDER BY stream_no, last_seq";
        // The first entry of a stream opens it and is no view.
        let applied = "SELECT inbox_no, seq, seq, 2 FROM view ORDER BY inbox_no, feed_seq";
        let (mut faults, mut at) = (Vec::new(), None);
        for (what, sql) in [("written", written), ("applied", applied)] {
            let mut statement = self.0.prepare(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let [stream, first, last, begin] =
                    std::array::from_fn(|column| number(row, column).unwrap());
                let next = match at {
                    Some((before, last)) if before == (what, stream) => last + 1,
                    _ => begin,
                };
                if first != next {
                    faults.push(format!("P4: {first} is {what} where {next} should be"));
                }
                at = Some(((what, stream), last));
            }
        }
        faults
    }
}

/// SQLite has no numbers without a sign.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(number.try_into().unwrap())
}

/// What one side claims beyond what the other has on disk. The claims were read before.
pub(crate) fn beyond(what: &str, claims: &Positions, disk: &Positions) -> Vec<String> {
    let beyond = claims.iter().filter_map(|(stream, claimed)| {
        let on_disk = disk.get(stream).copied().unwrap_or_default();
        (*claimed > on_disk).then(|| format!("P1: {what}: {claimed}, on disk {on_disk}"))
    });
    beyond.collect()
}
