//! A store on a temporary file with its writer on a thread, and rows as plain as they may be.

use bytes::Bytes;
use domain::kernel::{
    AgreementId, DeviceId, Entropy, Epoch, Kind, Lane, OperationId, Purpose, RecordId, RegionId,
    RetentionClass, Revision, Timestamp,
};
use domain::stream::{LastShown, Position, Shown, Standing, StreamId};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
use storage::WriteError;
use storage::region::{
    Base, Claim, Commit, CommitItem, InboxEntry, InboxItem, Opening, OperationOutcome,
    OperationRow, RecordWrite, ShareWrite, Store, ViewRow, Watcher,
};

/// 2026-07-01T00:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_782_864_000_000_000);
/// Longest any awaited thing may take.
const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

pub(crate) async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

pub(crate) fn slug(text: &str) -> RegionId {
    RegionId::parse(text).expect("a slug")
}

pub(crate) fn record(n: i64) -> RecordId {
    RecordId::mint(Timestamp::from_micros(n * 1_000), &Zeros)
}

pub(crate) fn operation(n: i64) -> OperationId {
    OperationId::mint(Timestamp::from_micros(n * 1_000), &Zeros)
}

pub(crate) fn device(n: i64) -> DeviceId {
    DeviceId::mint(Timestamp::from_micros(n * 1_000), &Zeros)
}

pub(crate) fn epoch() -> Epoch {
    Epoch::mint(Timestamp::from_micros(1_000), &Zeros)
}

pub(crate) fn revision(n: u64) -> Revision {
    Revision { t: 0, epoch: epoch(), n }
}

pub(crate) fn stream(origin: &str, lane: Lane) -> StreamId {
    StreamId {
        origin: slug(origin),
        epoch: epoch(),
        agreement: AgreementId::mint(Timestamp::from_micros(5_000), &Zeros),
        version: 1,
        lane,
    }
}

/// An agreement beside that of [`stream`].
pub(crate) fn another_agreement() -> AgreementId {
    AgreementId::mint(Timestamp::from_micros(6_000), &Zeros)
}

/// A store and the thread that writes it.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
    writer: std::thread::JoinHandle<Result<(), WriteError>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a folder")).await
    }

    async fn on(dir: tempfile::TempDir) -> Self {
        let path = dir.path().join("store.sqlite");
        let (store, writer) = Store::open(&path, &slug("xiaonanhai"), epoch()).await.expect("open");
        Self { dir, store, writer: std::thread::spawn(move || writer.run()) }
    }

    /// Notes a duty officer as a watcher.
    pub(crate) async fn watched(&self) {
        let watcher = Watcher { device: device(2), purpose: Purpose::Duty };
        self.store.set_watchers(NOW, vec![watcher]).await.expect("written");
    }

    /// Closes the store in order, changes the file and opens it again.
    pub(crate) async fn edited(self, sql: &str) -> Self {
        let conn = Connection::open(self.path()).expect("the file");
        conn.execute_batch(sql).expect("edited");
        self.reopened().await
    }

    /// Closes the store in order and opens it again.
    pub(crate) async fn reopened(self) -> Self {
        let Self { dir, store, writer } = self;
        drop(store);
        writer.join().expect("no panic").expect("written");
        Self::on(dir).await
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store.sqlite")
    }

    /// A look at the file beside the store.
    pub(crate) fn look<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        let conn = Connection::open(self.path()).expect("the file");
        conn.query_row(sql, [], |row| row.get(0)).expect("one value")
    }
}

/// An operation on a record that makes revision `n` of it.
pub(crate) fn write(op: i64, of: i64, n: u64) -> CommitItem {
    CommitItem {
        operation: answered(op, of, OperationOutcome::Applied, n),
        replaces_held: false,
        write: Some(RecordWrite {
            record_id: record(of),
            kind: Kind::Event,
            base: (n > 1).then(|| Base { revision: revision(n - 1), shown: Shown::default() }),
            revision: revision(n),
            received_at: NOW,
            retention_class: RetentionClass::Event,
            expires_at: NOW.plus_days(9),
            encoded: format!("record {of} revision {n}").into_bytes().into(),
            shown: Shown::default(),
            shares: Vec::new(),
        }),
    }
}

pub(crate) fn answered(op: i64, of: i64, outcome: OperationOutcome, n: u64) -> OperationRow {
    let waits = matches!(outcome, OperationOutcome::Held | OperationOutcome::Quarantined);
    OperationRow {
        operation_id: operation(op),
        digest: [7; 16],
        device: Some(device(1)),
        record_id: record(of),
        outcome,
        reason: None,
        revision_n: n,
        received_at: NOW,
        encoded: waits.then(|| Bytes::from_static(b"waiting")),
    }
}

/// The entry by which revision `n` of a record leaves.
pub(crate) fn share(stream: &StreamId, of: i64, n: u64) -> ShareWrite {
    ShareWrite {
        stream: stream.clone(),
        entry: format!("view {of} {n}").into_bytes().into(),
        salt: [3; 16],
        expires_at: NOW.plus_days(9),
        opening: OPENING,
        behind_end: false,
    }
}

/// How streams of tests open.
pub(crate) const OPENING: Opening =
    Opening { agreement_sha256: [9; 32], salts: [[4; 16], [5; 16]] };

/// [`write`], shown in a stream, as was every revision before.
pub(crate) fn shown(stream: &StreamId, op: i64, of: i64, n: u64) -> CommitItem {
    let mut item = write(op, of, n);
    if let Some(write) = &mut item.write {
        if let Some(base) = &mut write.base {
            base.shown = memory(stream, n - 1);
        }
        write.shown = memory(stream, n);
        write.shares.push(share(stream, of, n));
    }
    item
}

/// What is remembered when so many revisions were shown in a stream.
pub(crate) fn memory(stream: &StreamId, share_n: u64) -> Shown {
    let mut shown = Shown::default();
    let (lane, standing) = (stream.lane, Standing::Shown);
    shown.set(stream.agreement, LastShown { share_n, lane, standing, since_version: 1 });
    shown
}

pub(crate) fn commit(items: Vec<CommitItem>) -> Commit {
    Commit { items, turns: 0, now: NOW }
}

/// What the chain comes to over these salts and entries.
pub(crate) fn chain<'a>(
    stream: &StreamId,
    entries: impl IntoIterator<Item = (&'a [u8; 16], &'a [u8])>,
) -> Position {
    entries.into_iter().fold(seal::chain::start(stream), |at, (salt, entry)| {
        seal::chain::extend(at, &seal::chain::commitment(salt, entry))
    })
}

/// Any place in a stream, told apart by its seq.
pub(crate) fn place(stream: &StreamId, seq: u64) -> Position {
    match seq {
        0 => seal::chain::start(stream),
        _ => Position { seq, h: [seq as u8; 32] },
    }
}

pub(crate) fn view_row(birth: &str, of: i64, n: u64, share_n: u64) -> ViewRow {
    ViewRow {
        record_id: record(of),
        birth_region: slug(birth),
        kind: Kind::Event,
        revision: revision(n),
        share_n,
        view_sha256: Some([n as u8; 32]),
        expires_at: NOW.plus_days(9),
        encoded: format!("{birth} {of} {n} {share_n}").into_bytes().into(),
        salt: [n as u8; 16],
        entry: None,
        claim: Claim::Proven,
    }
}

/// An entry that opens a stream.
pub(crate) fn control() -> InboxItem {
    InboxItem::Control { salt: [1; 16], entry: Bytes::from_static(b"start") }
}

pub(crate) fn entry(seq: u64, item: InboxItem) -> InboxEntry {
    InboxEntry { seq, item }
}
