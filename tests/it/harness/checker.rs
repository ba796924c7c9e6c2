//! The oracle: what was acknowledged is there, in stream order, once.

use domain::kernel::RecordId;
use proto::device::v1 as pb;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// The harness's own log of acknowledgements, flushed before the next is asked for.
pub(crate) struct AckLog {
    file: File,
    pub(crate) acked: BTreeSet<RecordId>,
}

impl AckLog {
    pub(crate) fn create(path: &Path) -> Self {
        Self { file: File::create(path).unwrap(), acked: BTreeSet::new() }
    }

    pub(crate) fn ack(&mut self, records: &[RecordId]) {
        for record in records {
            writeln!(self.file, "{record}").unwrap();
            self.acked.insert(*record);
        }
        self.file.sync_data().unwrap();
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
    pub(crate) fn of(changes: &[pb::Change]) -> Vec<Self> {
        changes
            .iter()
            .filter_map(|change| match &change.subject {
                Some(pb::change::Subject::View(view)) => {
                    let source = view.source.as_ref()?;
                    let meta = view.view.as_ref()?.meta.as_ref()?;
                    Some(Self {
                        stream: format!("{}/{}", source.origin_region, source.lane),
                        seq: source.seq,
                        record: RecordId::from_slice(&meta.record_id)?,
                    })
                }
                _ => None,
            })
            .collect()
    }
}

/// What is wrong with a history: acknowledged and missing, seen twice, out of order.
pub(crate) fn faults(acked: &BTreeSet<RecordId>, seen: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut records = BTreeSet::new();
    for one in seen {
        let before = last.insert(&one.stream, one.seq).unwrap_or(0);
        if one.seq <= before {
            faults.push(format!("{} seq {} after {before}", one.stream, one.seq));
        }
        if !records.insert(one.record) {
            faults.push(format!("{} seen twice", one.record));
        }
    }
    faults.extend(
        acked
            .difference(&records)
            .map(|record| format!("{record} was acknowledged and is missing")),
    );
    faults
        .extend(records.difference(acked).map(|record| format!("{record} was never acknowledged")));
    faults
}

#[test]
fn the_checker_goes_red_for_what_is_missing_doubled_or_out_of_order() {
    use domain::kernel::Timestamp;
    let id = |n: i64| {
        RecordId::mint(
            Timestamp::from_micros(1_760_000_000_000_000 + n),
            &runtime::clock::SystemEntropy,
        )
    };
    let ids: Vec<RecordId> = (0..3).map(id).collect();
    let acked: BTreeSet<RecordId> = ids.iter().copied().collect();
    let good: Vec<Seen> = ids
        .iter()
        .zip(2..)
        .map(|(record, seq)| Seen { stream: "a/2".to_owned(), seq, record: *record })
        .collect();
    assert_eq!(faults(&acked, &good), Vec::<String>::new());
    let mut missing = good.clone();
    missing.remove(1);
    assert_eq!(faults(&acked, &missing).len(), 1);
    let mut doubled = good.clone();
    doubled.push(Seen { seq: 9, ..good[0].clone() });
    assert_eq!(faults(&acked, &doubled).len(), 1);
    let mut out_of_order = good.clone();
    out_of_order.swap(0, 1);
    assert_eq!(faults(&acked, &out_of_order).len(), 1);
    let mut invented = good;
    invented.push(Seen { stream: "a/2".to_owned(), seq: 9, record: id(9) });
    assert_eq!(faults(&acked, &invented).len(), 1);
}
