//! Goal: whoever types the commands of the runbook, in order, gets what it says: what was proposed over the wire is in
//! force, the neighbour has the record, one that is taken back leaves it, one that is erased is signed for, an agreement that is suspended keeps new ones back, a
//! revoked county gets nothing and comes back. Method: a shell runs its blocks as they stand, on other ports; a mark
//! (`# expect: TEXT`, `# stays: TEXT`) is held against what the command above it shows. Controls: the same without a
//! signature, and marks that do not hold.

use crate::harness::{binary, free_port, root};
use std::path::Path;
use std::process::{Command, Output};

const RUNBOOK: &str = "deploy/runbooks/join-a-county.md";
/// What the runbook is for, in its marks: without these it would prove less than it says.
const PROVES: [&str; 12] = [
    "NOT SIGNED by 未签: xianfeng (needs 尚需 1)",
    "v1 IN_FORCE 《中坝河边界联防》",
    "agreed 已达成",
    "qianjiang: APPLIED",
    "xianfeng: APPLIED",
    "v1: LEFT, withheld now 现不共享: SENSITIVITY",
    "confirmed 已确认: qianjiang, xianfeng",
    "NOT_SHOWN, withheld now 现不共享: NOT_IN_FORCE",
    "RECORD_NOT_FOUND",
    "region xianfeng 咸丰县 REVOKED",
    "v3: QUARANTINED",
    "REGION_REVOKED",
];
/// The runbook's default ports.
const PORTS: std::ops::Range<u16> = 7_440..7_500;
/// Seconds after which a runbook hangs; it takes a third of that.
const HANGS_S: &str = "120";

/// What the marks mean. Health is read without curl, which a fresh machine may lack.
const SHELL: &str = r#"
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
trap 'running=$(jobs -p); [ -z "$running" ] || kill $running 2>/dev/null || true; wait' EXIT

shows() {
  told=$("${@:2}" 2>&1) || true
  [[ $told == *"$1"* ]]
}

expect() {
  local told end=$((SECONDS + WITHIN_S))
  until shows "$@"; do
    ((SECONDS < end)) || { echo "not \`$1\` but: $told" >&2; return 1; }
    sleep 0.1
  done
  echo "$told"
  echo "seen: $1"
}

stays() {
  local told
  expect "$@"
  sleep 3
  shows "$@" || { echo "\`$1\` did not stay: $told" >&2; return 1; }
}

curl() {
  local at=${2#http://}
  local host=${at%%/*}
  exec 3<>"/dev/tcp/${host/://}"
  printf 'GET /%s HTTP/1.0\r\n\r\n' "${at#*/}" >&3
  cat <&3
}
"#;

/// The blocks of the runbook, one after another.
fn steps() -> Vec<String> {
    let text = std::fs::read_to_string(root().join(RUNBOOK)).unwrap();
    let mut in_block = false;
    let mut steps = Vec::new();
    for line in text.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            _ if in_block => steps.push(line.to_owned()),
            _ => {}
        }
    }
    steps
}

/// A mark's word and what is to be seen.
fn mark(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# ")?.split_once(": ").filter(|(word, _)| ["expect", "stays"].contains(word))
}

/// Puts each mark before the command that it is about.
fn marked(steps: &[String]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in steps {
        let Some((word, wanted)) = mark(line) else {
            lines.push(line.clone());
            continue;
        };
        let mut command = lines.pop().unwrap();
        while lines.last().is_some_and(|before| before.ends_with('\\')) {
            command = format!("{}\n{command}", lines.pop().unwrap());
        }
        assert!(!wanted.contains('\''), "{wanted}");
        lines.push(format!("{word} '{wanted}' {command}"));
    }
    lines.join("\n")
}

/// Has a shell run it in a folder of its own, in which what is to be seen has so many seconds to come.
fn run(dir: &Path, script: &str, within_s: u32) -> Output {
    let programs = binary("wuling");
    let programs = programs.parent().unwrap().display();
    let mut script = format!("PATH='{programs}':$PATH\nWITHIN_S={within_s}\n{SHELL}\n{script}\n");
    for port in PORTS {
        let named = format!(":{port}");
        if script.contains(&named) {
            let mut free = std::iter::repeat_with(|| format!(":{}", free_port()));
            let free = free.find(|free| !script.contains(free)).unwrap();
            script = script.replace(&named, &free);
        }
    }
    std::fs::write(dir.join("run.sh"), script).unwrap();
    // Ends all that the shell has started, should it hang.
    let mut command = Command::new("timeout");
    command.args([HANGS_S, "bash", "-euo", "pipefail", "run.sh"]).current_dir(dir).output().unwrap()
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn who_follows_the_runbook_gets_what_it_says() {
    let (dir, steps) = (tempfile::tempdir().unwrap(), steps());
    let output = run(dir.path(), &marked(&steps), 30);
    let (shown, errors) = told(&output);
    assert!(output.status.success(), "{errors}\n{shown}");
    let mut seen: Vec<_> = shown.lines().filter_map(|line| line.strip_prefix("seen: ")).collect();
    let mut wanted: Vec<_> =
        steps.iter().filter_map(|line| mark(line)).map(|mark| mark.1).collect();
    for proof in PROVES {
        assert!(wanted.iter().any(|wanted| wanted.contains(proof)), "no mark says `{proof}`");
    }
    seen.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
}

#[test]
fn the_same_without_a_signature_ends_where_the_agreement_is_installed() {
    let (dir, mut steps) = (tempfile::tempdir().unwrap(), steps());
    let (before, signs) =
        (steps.len(), "wuling agreement sign --data qianjiang --region qianjiang charter.signed");
    steps.retain(|line| line != signs);
    assert_eq!(steps.len(), before - 1);
    let output = run(dir.path(), &marked(&steps), 30);
    let (shown, errors) = told(&output);
    assert!(!output.status.success(), "{shown}");
    let installs =
        "failed: wuling agreement install --data xiaonanhai --region xiaonanhai charter.signed";
    for what in ["a signature of qianjiang is missing", installs] {
        assert!(errors.contains(what), "{errors}");
    }
}

#[test]
fn a_mark_that_does_not_hold_fails_the_runbook() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let refused = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let output = run(dir.path(), &marked(&lines(text)), 1);
        (!output.status.success()).then(|| told(&output).1)
    };
    let late = "(sleep 2; touch late) &\nls \\\n  late\n";
    let holds = format!("echo STORED\n# expect: STORED\n{late}# expect: No such file\n");
    assert_eq!(refused(&holds), None);
    let other = refused("echo STORED\n# expect: APPLIED\n").unwrap();
    assert!(other.contains("not `APPLIED` but: STORED"), "{other}");
    let changes = refused(&format!("{late}# stays: No such file\n")).unwrap();
    assert!(changes.contains("did not stay"), "{changes}");
}
