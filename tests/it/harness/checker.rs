//! The oracle: what was acknowledged is there, in stream order, once.

use domain::kernel::{OperationId, RecordId};
use proto::device::v1 as pb;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// An operation that a server has acknowledged, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) operation: OperationId,
    pub(crate) record: RecordId,
    pub(crate) revision: u64,
    /// A call for help, which goes to other parties than an event does.
    pub(crate) sos: bool,
}

impl Ack {
    fn line(&self) -> String {
        let Self { operation, record, revision, sos } = self;
        format!("{operation} {record} {revision} {sos}\n")
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            operation: words.next()?.parse().ok()?,
            record: words.next()?.parse().ok()?,
            revision: words.next()?.parse().ok()?,
            sos: words.next()?.parse().ok()?,
        })
    }
}

/// The harness's own log of acknowledgements, flushed before the next is asked for.
pub(crate) struct AckLog(File);

impl AckLog {
    pub(crate) fn create(path: &Path) -> Self {
        Self(File::create(path).unwrap())
    }

    pub(crate) fn ack(&mut self, acks: &[Ack]) {
        let lines: String = acks.iter().map(Ack::line).collect();
        self.0.write_all(lines.as_bytes()).unwrap();
        self.0.sync_data().unwrap();
    }

    /// What was acknowledged after the first `known`.
    pub(crate) fn read(path: &Path, known: usize) -> Vec<Ack> {
        let text = std::fs::read_to_string(path).unwrap();
        // A line that is being written has no end yet.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().skip(known).map(|line| Ack::read(line).unwrap()).collect()
    }
}

/// A revision of a record: what is shown, and what may be applied once.
pub(crate) type Shown = (RecordId, u64);

/// A view as the recipient's feed shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) shown: Shown,
}

impl Seen {
    /// The views among changes. One that is not well formed fails the test.
    pub(crate) fn of(changes: &[pb::Change]) -> Vec<Self> {
        let view = |change: &pb::Change| {
            let Some(pb::change::Subject::View(view)) = &change.subject else { return None };
            let source = view.source.as_ref().unwrap();
            let meta = view.view.as_ref().unwrap().meta.as_ref().unwrap();
            Some(Self {
                stream: format!("{}/{}", source.origin_region, source.lane),
                seq: source.seq,
                shown: (
                    RecordId::from_slice(&meta.record_id).unwrap(),
                    meta.revision.as_ref().unwrap().n,
                ),
            })
        };
        changes.iter().filter_map(view).collect()
    }
}

/// Records of the region's own among changes.
pub(crate) fn own_records(changes: &[pb::Change]) -> Vec<RecordId> {
    let own = |change: &pb::Change| {
        let Some(pb::change::Subject::Record(record)) = &change.subject else { return None };
        RecordId::from_slice(&record.meta.as_ref().unwrap().record_id)
    };
    changes.iter().filter_map(own).collect()
}

/// Follows what one officer sees, and says at once what may not be: out of order, a hole, twice.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: HashMap<String, u64>,
    shown: BTreeSet<Shown>,
}

impl Order {
    /// Takes what was seen next.
    pub(crate) fn follow(&mut self, seen: &[Seen]) -> Vec<String> {
        let mut faults = Vec::new();
        for Seen { stream, seq, shown } in seen {
            // The first entry of a stream opens it and shows nothing.
            let before = self.last.insert(stream.clone(), *seq).unwrap_or(1);
            if *seq != before + 1 {
                faults.push(format!("P4: {stream}: entry {seq} after {before}"));
            }
            if !self.shown.insert(*shown) {
                faults.push(format!("P3: {} was seen twice", name(shown)));
            }
        }
        faults
    }

    /// What is wrong once nothing is under way any more.
    pub(crate) fn end(&self, acked: &BTreeSet<Shown>) -> Vec<String> {
        let missing = acked.difference(&self.shown);
        let missing =
            missing.map(|shown| format!("P2: {} was acknowledged and is missing", name(shown)));
        let invented = self.shown.difference(acked);
        let invented = invented.map(|shown| format!("P2: {} was never acknowledged", name(shown)));
        missing.chain(invented).collect()
    }
}

fn name((record, revision): &Shown) -> String {
    format!("{record} revision {revision}")
}

/// What is wrong with a whole history: acknowledged and missing, never acknowledged, seen twice, out of
/// order, a hole.
pub(crate) fn faults(acked: &BTreeSet<Shown>, seen: &[Seen]) -> Vec<String> {
    let mut order = Order::default();
    let mut faults = order.follow(seen);
    faults.extend(order.end(acked));
    faults
}

#[test]
fn the_checker_goes_red_for_what_is_missing_doubled_invented_or_out_of_order() {
    use domain::kernel::Timestamp;
    use runtime::clock::SystemEntropy;
    let time = Timestamp::from_micros(1_760_000_000_000_000);
    let seen = |seq| {
        let shown = (RecordId::mint(time, &SystemEntropy), 1);
        Seen { stream: "a/2".to_owned(), seq, shown }
    };
    let good: Vec<Seen> = (2..6).map(seen).collect();
    let acked: BTreeSet<Shown> = good.iter().map(|one| one.shown).collect();
    assert_eq!(faults(&acked, &good), Vec::<String>::new());
    let doctored = |doctor: fn(&mut Vec<Seen>)| {
        let mut history = good.clone();
        doctor(&mut history);
        faults(&acked, &history).join("\n")
    };
    let last_missing = doctored(|history| drop(history.pop()));
    assert!(last_missing.contains("acknowledged and is missing"), "{last_missing}");
    let one_missing = doctored(|history| drop(history.remove(1)));
    assert!(one_missing.contains("acknowledged and is missing"), "{one_missing}");
    assert!(one_missing.contains("entry 4 after 2"), "{one_missing}");
    let same_entry_twice = doctored(|history| history.insert(1, history[0].clone()));
    assert!(same_entry_twice.contains("seen twice"), "{same_entry_twice}");
    let two_entries_of_one =
        doctored(|history| history.push(Seen { seq: 6, ..history[0].clone() }));
    assert!(two_entries_of_one.ends_with("seen twice"), "{two_entries_of_one}");
    let out_of_order = doctored(|history| history.swap(0, 1));
    assert!(out_of_order.contains("entry 2 after 3"), "{out_of_order}");
    let mut history = good.clone();
    history.push(seen(6));
    assert!(faults(&acked, &history).join("\n").ends_with("was never acknowledged"));
}

#[test]
fn the_log_of_acknowledgements_is_read_back_from_any_place_and_without_a_broken_line() {
    use domain::kernel::Timestamp;
    use runtime::clock::SystemEntropy;
    let time = Timestamp::from_micros(1_760_000_000_000_000);
    let ack = |revision| Ack {
        operation: OperationId::mint(time, &SystemEntropy),
        record: RecordId::mint(time, &SystemEntropy),
        revision,
        sos: revision == 2,
    };
    let acks = [ack(1), ack(2), ack(3)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acked.log");
    let mut log = AckLog::create(&path);
    log.ack(&acks);
    log.0.write_all(b"half a li").unwrap();
    assert_eq!(AckLog::read(&path, 0), acks);
    assert_eq!(AckLog::read(&path, 2), acks[2..]);
    assert_eq!(AckLog::read(&path, 3), []);
}
