//! The oracle: what was acknowledged is there, in stream order, once.

use domain::kernel::RecordId;
use proto::device::v1 as pb;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The harness's own log of acknowledgements, flushed before the next is asked for.
pub(crate) struct AckLog(File);

impl AckLog {
    pub(crate) fn create(path: &Path) -> Self {
        Self(File::create(path).unwrap())
    }

    pub(crate) fn ack(&mut self, records: &[RecordId]) {
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        self.0.write_all(lines.as_bytes()).unwrap();
        self.0.sync_data().unwrap();
    }

    /// Every record that was acknowledged.
    pub(crate) fn read(path: &Path) -> BTreeSet<RecordId> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }
}

/// A view as the recipient's feed shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) record: RecordId,
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
                record: RecordId::from_slice(&meta.record_id).unwrap(),
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

/// What is wrong with a history of fresh reports: acknowledged and missing, never acknowledged, seen
/// twice, out of order, a hole.
pub(crate) fn faults(acked: &BTreeSet<RecordId>, seen: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut records = BTreeSet::new();
    for Seen { stream, seq, record } in seen {
        // The first entry of a stream opens it and shows nothing.
        let before = last.insert(stream, *seq).unwrap_or(1);
        if *seq != before + 1 {
            faults.push(format!("{stream}: entry {seq} after {before}"));
        }
        if !records.insert(*record) {
            faults.push(format!("{record} was seen twice"));
        }
    }
    let missing = acked.difference(&records);
    faults.extend(missing.map(|record| format!("{record} was acknowledged and is missing")));
    let invented = records.difference(acked);
    faults.extend(invented.map(|record| format!("{record} was never acknowledged")));
    faults
}

#[test]
fn the_checker_goes_red_for_what_is_missing_doubled_invented_or_out_of_order() {
    use domain::kernel::Timestamp;
    use runtime::clock::SystemEntropy;
    let time = Timestamp::from_micros(1_760_000_000_000_000);
    let seen =
        |seq| Seen { stream: "a/2".to_owned(), seq, record: RecordId::mint(time, &SystemEntropy) };
    let good: Vec<Seen> = (2..6).map(seen).collect();
    let acked: BTreeSet<RecordId> = good.iter().map(|one| one.record).collect();
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
