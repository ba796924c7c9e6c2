//! A real process that writes, killed with SIGKILL at no particular moment: what it was told is on disk
//! is there. The parent runs this test binary again as the child and reads what the child was told.

use crate::world::{START, check_in, enrol, open};
use device::{Draft, Standing, Window};
use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the child's folder; without it the child's test has nothing to do.
const FOLDER: &str = "WULING_DEVICE_KILL_FOLDER";
const ROUNDS: usize = 6;

#[test]
fn a_child_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut device = open(Path::new(&folder), u64::from(std::process::id()));
    let mut window = Window::default();
    let mut out = std::io::stdout();
    for n in 1.. {
        let recorded = device.record(Draft::making(check_in(), START)).unwrap();
        writeln!(out, "told {}", recorded.operation_id).unwrap();
        out.flush().unwrap();
        if n % 16 == 0 {
            window.clear();
            device.next_batch(&mut window).unwrap();
        }
    }
}

#[test]
fn what_a_killed_process_was_told_is_on_disk_is_there() {
    let dir = tempfile::tempdir().unwrap();
    enrol(dir.path());
    let mut told = HashSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::a_child_writes_until_it_is_killed", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut tell = |line: String| match line.rsplit_once("told ") {
            Some((_, id)) => told.insert(id.to_owned()),
            None => false,
        };
        // The number of lines differs from round to round, so that the kill comes at other moments.
        let mut left = 20 + 17 * round;
        while left > 0 {
            let line = lines.next().expect("the child goes on writing").unwrap();
            left -= usize::from(tell(line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was told between the count and the kill counts too; a line cut short does not.
        for line in lines.map_while(Result::ok) {
            if line.len() == "told ".len() + 36 {
                tell(line);
            }
        }
        let device = open(dir.path(), 1);
        let kept = device.list_operations(Standing::Queued, 0, u32::MAX).unwrap();
        let ids: HashSet<_> =
            kept.iter().map(|kept| kept.operation.operation_id.to_string()).collect();
        assert!(
            told.is_subset(&ids),
            "{} of {} are lost",
            told.difference(&ids).count(),
            told.len()
        );
        let seqs: Vec<_> = kept.iter().map(|kept| kept.operation.device_seq).collect();
        let counted: Vec<_> = (1..).take(seqs.len()).collect();
        assert_eq!(seqs, counted, "numbers without holes");
    }
    assert!(told.len() > 20 * ROUNDS);
}
