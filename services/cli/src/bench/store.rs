//! The stores as the servers use them, through their writers: rows a second, how long a commit takes,
//! what a row costs. One commit at a time, so that a transaction holds just the rows it should.

use super::Options;
use super::limits::{self, Limits};
use super::report::{self, Usage, median, noisy, percentile, put_spread, round};
use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use domain::kernel::{
    AgreementId, Clock as _, DeviceId, Entropy as _, Epoch, GatewayId, Kind, Lane, OperationId,
    RecordId, RegionId, RetentionClass, Revision, Timestamp,
};
use domain::stream::{LastShown, Position, Shown, Standing, StreamId};
use runtime::clock::{SystemClock, SystemEntropy};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;
use storage::gateway::{SegmentVerdict, SegmentWrite};
use storage::region::{
    Apply, Claim, Commit, CommitItem, CommitVerdict, InboxEntry, InboxItem, Opening,
    OperationOutcome, OperationRow, RecordWrite, ShareWrite, ViewRow,
};
use storage::{WriteError, Writer, gateway, region};
use tempfile::TempDir;
use tokio::time::Instant;

/// Rows of a transaction.
const ROWS: [usize; 4] = [1, 10, 100, 1_000];
/// Bytes of a record, a view or an entry.
const RECORD_BYTES: usize = 300;
/// Sealed bytes of an entry that lies with many others in a segment.
const PACKED_BYTES: usize = 91;
/// Entries of a segment, at most.
const PACKED_ENTRIES_MAX: usize = 512;
/// Rows of a transaction while a store is preloaded.
const PRELOAD_ROWS: usize = 1_000;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The region: operations, each with a record and an entry for one stream.
    Commit,
    /// The region: entries of a neighbour, each with a view.
    Apply,
    /// The gateway: segments of one entry.
    Segments,
    /// The gateway: entries, as many as fit in a segment; a row is an entry.
    Packed,
}

/// Which ids records and operations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ids {
    /// In the order of time, as phones make them.
    Ordered,
    /// Random: what ids must not be.
    Random,
}

const KINDS: [(Part, Ids); 6] = [
    (Part::Commit, Ids::Ordered),
    (Part::Apply, Ids::Ordered),
    (Part::Segments, Ids::Ordered),
    (Part::Packed, Ids::Ordered),
    (Part::Commit, Ids::Random),
    (Part::Apply, Ids::Random),
];

/// A line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    part: Part,
    ids: Ids,
    preloaded: bool,
    rows: usize,
}

/// How much is done for a figure.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    seconds: f64,
    limits_seconds: f64,
    /// Rows made ahead, so that making them is not measured.
    chunk_rows: usize,
    preload: usize,
}

/// What a round of a case came to.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rows_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_row: f64,
    others_cpu: f64,
}

/// Runs the suite.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let effort = Effort {
        rounds: options.rounds,
        seconds: 1.0,
        limits_seconds: 0.5,
        chunk_rows: 4_000,
        preload: options.records,
    };
    let wanted = |case: &Case| options.cases.is_empty() || options.cases.contains(&case.name());
    let cases: Vec<Case> = all().into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no such case; there are commit_1, apply_100_preloaded, …");
    report::print(&lines(options.data.as_deref(), &cases, effort).await?, options.json)?;
    Ok(true)
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (part, ids) in KINDS {
        for preloaded in [false, true] {
            cases.extend(ROWS.map(|rows| Case { part, ids, preloaded, rows }));
        }
    }
    cases
}

impl Case {
    fn name(&self) -> String {
        let part = match self.part {
            Part::Commit => "commit",
            Part::Apply => "apply",
            Part::Segments => "segments",
            Part::Packed => "packed",
        };
        let preloaded = if self.preloaded { "_preloaded" } else { "" };
        let random = if self.ids == Ids::Random { "_random" } else { "" };
        format!("{part}_{}{preloaded}{random}", self.rows)
    }
}

/// Round by round, so that what drifts drifts for all.
async fn lines(parent: Option<&Path>, cases: &[Case], effort: Effort) -> Result<Vec<Value>> {
    let mut preloaded = BTreeMap::new();
    for case in cases.iter().filter(|case| case.preloaded) {
        if let std::collections::btree_map::Entry::Vacant(place) =
            preloaded.entry((case.part, case.ids))
        {
            let mut bed = Bed::open(parent, case.part, case.ids).await?;
            let mut left = effort.preload;
            while left > 0 {
                let job = bed.maker.job(left.min(PRELOAD_ROWS))?;
                bed.write(job).await?;
                left = left.saturating_sub(PRELOAD_ROWS);
            }
            place.insert(bed);
        }
    }
    let mut samples: BTreeMap<Case, Vec<Sample>> = BTreeMap::new();
    let mut limits = Vec::new();
    for _ in 0..effort.rounds {
        limits.push(limits::measure_for(parent, effort.limits_seconds)?);
        for case in cases {
            let sample = match preloaded.get_mut(&(case.part, case.ids)) {
                Some(bed) if case.preloaded => bed.measure(case.rows, effort).await?,
                _ => {
                    let mut bed = Bed::open(parent, case.part, case.ids).await?;
                    let sample = bed.measure(case.rows, effort).await?;
                    bed.close()?;
                    sample
                }
            };
            samples.entry(*case).or_default().push(sample);
        }
    }
    preloaded.into_values().try_for_each(Bed::close)?;
    let told = cases.iter().filter_map(|case| Some((case, samples.get(case)?)));
    Ok(told.map(|(case, samples)| line(case, samples, &limits, effort)).collect())
}

fn line(case: &Case, samples: &[Sample], limits: &[Limits], effort: Effort) -> Value {
    let of = |pick: fn(&Sample) -> f64| samples.iter().map(pick).collect::<Vec<f64>>();
    let others_cpu = of(|s| s.others_cpu);
    let bare = median(limits.iter().map(|limits| limits.sqlite_rows_per_s).collect());
    let mut line = json!({
        "suite": "store",
        "case": case.name(),
        "rows_per_tx": case.rows,
        "ids": if case.ids == Ids::Random { "random" } else { "ordered" },
        "preloaded_rows": if case.preloaded { effort.preload } else { 0 },
        "p50_us": round(median(of(|s| s.p50_us))),
        "p99_us": round(median(of(|s| s.p99_us))),
        "cpu_us_per_row": round(median(of(|s| s.cpu_us_per_row))),
        "ratio_to_sqlite": round(median(of(|s| s.rows_per_s)) / bare),
        "limits": limits::named(limits),
        "n": samples.len(),
        "others_cpu": round(median(others_cpu.clone())),
        "noisy": noisy(others_cpu, limits),
    });
    put_spread(&mut line, "rows_per_s", of(|s| s.rows_per_s));
    line
}

/// A store with its writer and what makes its rows.
struct Bed {
    store: Store,
    writer: JoinHandle<Result<(), WriteError>>,
    maker: Maker,
    /// Last, so that it is removed when nobody writes there any more.
    dir: TempDir,
}

enum Store {
    Region(region::Store),
    Gateway(gateway::Store),
}

enum Job {
    Commit(Commit),
    Apply(Apply),
    Segments(Vec<SegmentWrite>),
}

impl Bed {
    async fn open(parent: Option<&Path>, part: Part, ids: Ids) -> Result<Self> {
        let dir = limits::scratch(parent)?;
        let path = dir.path().join("store.sqlite");
        let maker = Maker::new(part, ids)?;
        let (store, writer): (_, Writer) = match part {
            Part::Commit | Part::Apply => {
                let region: RegionId = OWN.parse()?;
                let (store, writer) =
                    region::Store::open(&path, &region, maker.stream.epoch).await?;
                (Store::Region(store), writer)
            }
            Part::Segments | Part::Packed => {
                let id: GatewayId = "gateway-1".parse()?;
                let (store, writer) = gateway::Store::open(&path, &id).await?;
                (Store::Gateway(store), writer)
            }
        };
        Ok(Self { store, writer: std::thread::spawn(move || writer.run()), maker, dir })
    }

    async fn write(&self, job: Job) -> Result<()> {
        match (&self.store, job) {
            (Store::Region(store), Job::Commit(commit)) => {
                ensure!(store.commit(commit).await? == CommitVerdict::Done, "a commit was refused");
            }
            (Store::Region(store), Job::Apply(apply)) => {
                let after = apply.after;
                ensure!(store.apply(apply).await?.position == after, "a range was refused");
            }
            (Store::Gateway(store), Job::Segments(segments)) => {
                let stored =
                    |verdict: &SegmentVerdict| matches!(verdict, SegmentVerdict::Stored(_));
                ensure!(store.store(segments).await?.iter().all(stored), "a segment was refused");
            }
            _ => return Err(anyhow!("a job of another store")),
        }
        Ok(())
    }

    /// Transactions of so many rows, one after another.
    async fn measure(&mut self, rows: usize, effort: Effort) -> Result<Sample> {
        let (mut took_us, mut cpu_s, mut total_us) = (Vec::new(), 0.0, 0.0);
        let mut others_cpu = Vec::new();
        while total_us < effort.seconds * 1e6 || took_us.is_empty() {
            let count = effort.chunk_rows.div_ceil(rows);
            let jobs = (0..count).map(|_| self.maker.job(rows)).collect::<Result<Vec<_>>>()?;
            let usage = Usage::own()?;
            for job in jobs {
                let from = Instant::now();
                self.write(job).await?;
                let us = from.elapsed().as_secs_f64() * 1e6;
                took_us.push(us);
                total_us += us;
            }
            let used = usage.until_now(&[std::process::id()])?;
            cpu_s += used.cpu_s[0];
            others_cpu.push(used.others_cpu);
        }
        let written = (took_us.len() * rows) as f64;
        Ok(Sample {
            rows_per_s: written * 1e6 / total_us,
            p50_us: percentile(&mut took_us, 50.0),
            p99_us: percentile(&mut took_us, 99.0),
            cpu_us_per_row: cpu_s * 1e6 / written,
            others_cpu: others_cpu.iter().sum::<f64>() / others_cpu.len() as f64,
        })
    }

    fn close(self) -> Result<()> {
        let Self { store, writer, maker: _, dir } = self;
        drop(store);
        writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        dir.close().context("the files of a store were not removed")
    }
}

/// The region whose store it is, and the neighbour whose entries it applies.
const OWN: &str = "origin";
const NEIGHBOUR: &str = "neighbour-1";

/// Makes rows as the servers would, as cheaply as it can.
struct Maker {
    part: Part,
    ids: Ids,
    now: Timestamp,
    made: i64,
    device: DeviceId,
    stream: StreamId,
    birth_region: RegionId,
    at: Position,
    record: Bytes,
    recipients: Vec<RegionId>,
}

impl Maker {
    fn new(part: Part, ids: Ids) -> Result<Self> {
        let now = SystemClock.now();
        let neighbour: RegionId = NEIGHBOUR.parse()?;
        let origin = if part == Part::Commit { OWN.parse()? } else { neighbour.clone() };
        let stream = StreamId {
            origin,
            epoch: Epoch::mint(now, &SystemEntropy),
            agreement: AgreementId::mint(now, &SystemEntropy),
            version: 1,
            lane: Lane::Routine,
        };
        Ok(Self {
            part,
            ids,
            now,
            made: 0,
            device: DeviceId::mint(now, &SystemEntropy),
            at: seal::chain::start(&stream),
            stream,
            birth_region: neighbour,
            record: vec![7; RECORD_BYTES].into(),
            recipients: vec![OWN.parse()?],
        })
    }

    fn job(&mut self, rows: usize) -> Result<Job> {
        Ok(match self.part {
            Part::Commit => {
                let items = (0..rows).map(|_| self.item()).collect::<Result<_>>()?;
                Job::Commit(Commit { items, turns: 0, now: self.now })
            }
            Part::Apply => {
                let before = self.at;
                let entries = (0..rows).map(|_| self.view()).collect::<Result<_>>()?;
                let stream = self.stream.clone();
                Job::Apply(Apply {
                    stream,
                    before,
                    after: self.at,
                    entries,
                    parents: Vec::new(),
                    now: self.now,
                })
            }
            Part::Segments => Job::Segments((0..rows).map(|_| self.segment(1)).collect()),
            Part::Packed => {
                let (full, rest) = (rows / PACKED_ENTRIES_MAX, rows % PACKED_ENTRIES_MAX);
                let sizes = std::iter::repeat_n(PACKED_ENTRIES_MAX, full);
                let sizes = sizes.chain((rest > 0).then_some(rest));
                Job::Segments(sizes.map(|entries| self.segment(entries)).collect())
            }
        })
    }

    /// Sixteen bytes that sort by time or do not.
    fn id<T>(&mut self, mint: fn(Timestamp) -> T, from_slice: fn(&[u8]) -> Option<T>) -> Result<T> {
        self.made += 1;
        match self.ids {
            Ids::Ordered => Ok(mint(Timestamp::from_micros(self.now.micros() + self.made))),
            Ids::Random => {
                let mut bytes = [0; 16];
                SystemEntropy.fill(&mut bytes);
                // Random all over, but for the mark of its version.
                bytes[6] = bytes[6] & 0x0f | 0x70;
                from_slice(&bytes).context("the bytes are no id")
            }
        }
    }

    fn record_id(&mut self) -> Result<RecordId> {
        self.id(|now| RecordId::mint(now, &SystemEntropy), RecordId::from_slice)
    }

    fn item(&mut self) -> Result<CommitItem> {
        let record_id = self.record_id()?;
        let operation_id =
            self.id(|now| OperationId::mint(now, &SystemEntropy), OperationId::from_slice)?;
        let (now, expires_at) = (self.now, self.now.plus_days(90));
        let revision = Revision { t: 0, epoch: self.stream.epoch, n: 1 };
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let salt = taken(&random);
        let operation = OperationRow {
            operation_id,
            digest: salt,
            device: Some(self.device),
            record_id,
            outcome: OperationOutcome::Applied,
            reason: None,
            revision_n: 1,
            received_at: now,
            encoded: None,
        };
        let share = ShareWrite {
            stream: self.stream.clone(),
            entry: self.record.clone(),
            salt,
            expires_at,
            opening: Opening { agreement_sha256: [0; 32], salts: [salt; 2] },
            behind_end: false,
        };
        let mut shown = Shown::default();
        let (lane, standing) = (self.stream.lane, Standing::Shown);
        shown
            .set(self.stream.agreement, LastShown { share_n: 1, lane, standing, since_version: 1 });
        let write = RecordWrite {
            record_id,
            kind: Kind::Event,
            base: None,
            revision,
            received_at: now,
            retention_class: RetentionClass::Event,
            expires_at,
            encoded: self.record.clone(),
            shown,
            shares: vec![share],
        };
        Ok(CommitItem { operation, replaces_held: false, write: Some(write) })
    }

    fn view(&mut self) -> Result<InboxEntry> {
        let record_id = self.record_id()?;
        self.advance(1);
        let view = ViewRow {
            record_id,
            birth_region: self.birth_region.clone(),
            kind: Kind::Event,
            revision: Revision { t: 0, epoch: self.stream.epoch, n: 1 },
            share_n: 1,
            view_sha256: Some(self.at.h),
            expires_at: self.now.plus_days(90),
            encoded: self.record.clone(),
            salt: [0; 16],
            entry: None,
            claim: Claim::Proven,
        };
        Ok(InboxEntry { seq: self.at.seq, item: InboxItem::View(view) })
    }

    fn segment(&mut self, entries: usize) -> SegmentWrite {
        let before = self.at;
        self.advance(entries as u64);
        let bytes = if entries == 1 { RECORD_BYTES } else { entries * PACKED_BYTES };
        SegmentWrite {
            stream: self.stream.clone(),
            before,
            after: self.at,
            encoded: vec![7; bytes].into(),
            recipients: self.recipients.clone(),
            now: self.now,
        }
    }

    /// To a later place in the stream; the stores take the hashes as they are told.
    fn advance(&mut self, entries: u64) {
        let h = seal::chain::link(self.at.seq, &self.at.h, &[0; 32]);
        self.at = Position { seq: self.at.seq + entries, h };
    }
}

/// The first bytes of a longer row of them.
fn taken<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    taken.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::to_json;

    #[tokio::test]
    async fn every_case_is_written_and_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let effort =
            Effort { rounds: 1, seconds: 0.0, limits_seconds: 0.01, chunk_rows: 4, preload: 9 };
        let cases = all();
        let lines = lines(Some(dir.path()), &cases, effort).await.expect("measured");
        assert_eq!(lines.len(), KINDS.len() * 2 * ROWS.len());
        for (line, case) in lines.iter().zip(&cases) {
            let read: Value = serde_json::from_str(&to_json(line)).expect("json");
            assert_eq!((&read["suite"], &read["case"]), (&json!("store"), &json!(case.name())));
            for name in ["rows_per_s", "min", "max", "p50_us", "p99_us", "ratio_to_sqlite"] {
                assert!(read[name].as_f64() > Some(0.0), "{name} of {read}");
            }
            for name in ["rows_per_tx", "preloaded_rows", "cpu_us_per_row", "n", "others_cpu"] {
                assert!(read[name].is_number(), "{name} of {read}");
            }
            assert!(read["limits"]["flushes_per_s"].as_f64() > Some(0.0), "{read}");
            assert!(read["noisy"].is_boolean(), "{read}");
        }
        assert!(std::fs::read_dir(dir.path()).expect("the folder").next().is_none());
    }
}
