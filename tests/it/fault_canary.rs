//! The gateway is blind: of a canary in every text of every payload there is nothing in its files, logs
//! and memory, where the name of the region is found; and every one is found in the neighbour's store.

use crate::harness::{A, ARRIVES, B, World, converged, event, sos};
use device::Draft;
use domain::kernel::{Clock as _, Entropy as _, RecordId, Role};
use domain::operation::Change;
use domain::patrol::{CheckIn, CheckInMethod, Observation, Patrol, PatrolState, Shift, ShiftState};
use runtime::clock::{SystemClock, SystemEntropy};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Of each kind.
const ROUNDS: usize = 40;
/// Memory is searched in parts of this size.
const PART_BYTES: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_in_every_payload_is_nowhere_at_the_gateway() {
    let world = World::start().await;
    let mut lead = world.enrol(A, Role::ShiftLead, "lead").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk-a").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk-b").await;
    let mut canaries = Canaries::new();
    for _ in 0..ROUNDS {
        for change in payloads(&mut canaries) {
            lead.device.record(Draft::making(change, SystemClock.now())).unwrap();
        }
    }
    let report = lead.push().await.unwrap();
    assert_eq!((report.applied, report.rejected.len()), (6 * ROUNDS as u64, 0), "{report:?}");
    // What goes through has just gone through: what the gateway keeps of it for a while is there now.
    let memory = |pid| in_memory(pid, &[A.as_bytes(), canaries.common.as_bytes()]);
    let busy = memory(world.gateway.pid());
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    let quiet = memory(world.gateway.pid());

    for counts in [busy, quiet] {
        assert!(counts[0] > 0, "the search does not see the gateway's memory");
        assert_eq!(counts[1], 0, "the gateway's memory holds a payload");
    }
    assert!(memory(world.b.pid())[1] > 0, "the search does not see a payload where one is");
    let files = files(&world.path("gateway"));
    assert!(count(&files, A.as_bytes()) > 0, "the search does not see the gateway's files");
    assert_eq!(count(&files, canaries.common.as_bytes()), 0, "the gateway's files hold a payload");
    for process in [&world.gateway, &world.a, &world.b] {
        let log = process.log_text();
        assert!(log.contains("serving"), "the search does not see a log");
        assert!(!log.contains(&canaries.common), "a log holds a payload: {log}");
    }
    let store = self::files(&world.path("b"));
    for (canary, shared) in &canaries.all {
        let found = count(&store, canary.as_bytes());
        assert_eq!(found > 0, *shared, "{canary} is found {found} times at the neighbour");
    }
}

/// Texts that are found nowhere by chance. All begin alike; each is there once.
struct Canaries {
    common: String,
    /// With whether the agreement lets it leave.
    all: Vec<(String, bool)>,
}

impl Canaries {
    fn new() -> Self {
        let mut random = [0; 12];
        SystemEntropy.fill(&mut random);
        // Letters alone, so that nothing reads as a number that names a person.
        let common = random.map(|byte| char::from(b'a' + byte % 26)).into_iter().collect();
        Self { common, all: Vec::new() }
    }

    fn next(&mut self, shared: bool) -> String {
        let number = self.all.len();
        let letters = [number / 676, number / 26 % 26, number % 26];
        let letters = letters.map(|letter| char::from(b'A' + u8::try_from(letter).unwrap()));
        let canary = format!("{}{}", self.common, letters.iter().collect::<String>());
        self.all.push((canary.clone(), shared));
        canary
    }

    fn shared(&mut self) -> String {
        self.next(true)
    }

    fn withheld(&mut self) -> String {
        self.next(false)
    }
}

/// One of each kind that has texts, with a canary of its own in each.
fn payloads(canaries: &mut Canaries) -> [Change; 6] {
    let shift = Shift {
        unit: canaries.withheld(),
        station: canaries.withheld(),
        planned_start_at: None,
        planned_end_at: None,
        opened_at: None,
        closed_at: None,
        state: ShiftState::Open,
        staff_count: 2,
        roster_refs: vec![canaries.withheld()],
        handover_note: canaries.withheld(),
    };
    let id = RecordId::mint(SystemClock.now(), &SystemEntropy);
    let patrol = Patrol {
        shift_id: id,
        mandate: canaries.withheld(),
        route: canaries.shared(),
        route_kind: None,
        member_count: 2,
        partner_units: vec![canaries.shared()],
        legs: Vec::new(),
        state: PatrolState::Planned,
        started_at: None,
        ended_at: None,
        leader_ref: Some(canaries.withheld()),
    };
    let check_in = CheckIn {
        patrol_id: id,
        checkpoint: canaries.shared(),
        method: CheckInMethod::Manual,
        point: None,
        distance_m: 0.0,
        quality: None,
        remark: canaries.withheld(),
    };
    let observation = Observation {
        patrol_id: None,
        category: "GEOLOGICAL".to_owned(),
        text: canaries.withheld(),
        point: None,
        suggested_level: None,
    };
    let mut reported = event(&canaries.shared());
    reported.place = canaries.shared();
    [
        Change::OpenShift(shift),
        Change::PlanPatrol(patrol),
        Change::CheckIn(check_in),
        Change::Observation(observation),
        Change::ReportEvent(reported),
        Change::RaiseSos(sos(&canaries.shared())),
    ]
}

/// How often bytes are found.
pub(crate) fn count(haystack: &[u8], needle: &[u8]) -> usize {
    let begins = haystack.iter().enumerate().filter(|(_, byte)| **byte == needle[0]);
    begins.filter(|(at, _)| haystack[*at..].starts_with(needle)).count()
}

/// Every byte of every file below a folder.
pub(crate) fn files(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(files(&path));
        } else {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

/// How often each of some byte strings is found in what a process can read of its memory.
fn in_memory(pid: i32, needles: &[&[u8]]) -> Vec<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let overlap = needles.iter().map(|needle| needle.len()).max().unwrap_or(1) as u64 - 1;
    let mut counts = vec![0; needles.len()];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        // The kernel lets nobody read its own pages.
        if !rest.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vvar_vclock]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (address(start), address(end));
        while at < end {
            // Parts overlap, so that nothing is missed on a border.
            let mut part = vec![0; usize::try_from(PART_BYTES.min(end - at)).unwrap()];
            // A mapping may go while it is read.
            if memory.read_exact_at(&mut part, at).is_ok() {
                for (count, needle) in counts.iter_mut().zip(needles) {
                    *count += self::count(&part, needle);
                }
            }
            at += if end - at > PART_BYTES { PART_BYTES - overlap } else { PART_BYTES };
        }
    }
    counts
}
