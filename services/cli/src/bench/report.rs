//! What every suite tells, and what it must know of the machine to tell it honestly: the CPU time and
//! memory of its processes, and whether somebody else used the machine meanwhile.

use super::limits::Limits;
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Command;
use std::sync::LazyLock;
use tokio::time::Instant;

/// Cores that others may use before a run counts as noisy.
const OTHERS_CPU_MAX: f64 = 0.2;
/// How far the disk's flush may move between rounds before a run counts as noisy.
const FLUSH_MOVES_MAX: f64 = 2.0;
/// Ticks in a second of `/proc`, on every Linux that this is built for.
const TICKS_PER_S: f64 = 100.0;
/// Fields that are the head or the name of a row of a table.
const UNSEEN: [&str; 3] = ["suite", "case", "git"];
/// Commit that was checked out where the command runs; the program itself does not know its own.
static REV: LazyLock<String> = LazyLock::new(|| {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    let rev = output.ok().filter(|output| output.status.success());
    let rev = rev.and_then(|output| String::from_utf8(output.stdout).ok());
    rev.map_or_else(|| "unknown".to_owned(), |rev| rev.trim().to_owned())
});

/// The commit that is checked out, `unknown` outside a repository.
pub(super) fn git_rev() -> &'static str {
    &REV
}

/// Prints results: one line of JSON each, or a table for each run of results with the same fields.
pub(super) fn print(values: &[Value], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut rest = values;
    while let Some(first) = rest.first() {
        let same = |value: &&Value| !json && names(value) == names(first);
        let (group, after) = rest.split_at(rest.iter().take_while(same).count().max(1));
        writeln!(out, "{}", if json { to_json(first) } else { table(group) })?;
        rest = after;
    }
    Ok(out.flush()?)
}

/// A result as one line of JSON, the suite and the case first, the git revision last.
pub(super) fn to_json(value: &Value) -> String {
    let named = fields(value);
    let leading = ["suite", "case"];
    let first = leading.iter().filter_map(|name| Some((*name, named.get(*name)?)));
    let others = named.iter().map(|(name, value)| (name.as_str(), value));
    let others = others.filter(|(name, _)| !leading.contains(name) && *name != "git");
    let git = json!(git_rev());
    let all = first.chain(others).chain([("git", &git)]);
    let parts: Vec<String> = all.map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", parts.join(","))
}

/// The middle one; 0 of none.
pub(super) fn median(mut samples: Vec<f64>) -> f64 {
    percentile(&mut samples, 50.0)
}

/// The sample that so many percent do not exceed; 0 of none.
pub(super) fn percentile(samples: &mut [f64], percent: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Puts the median, the least and the greatest of a figure's samples into a result.
pub(super) fn put_spread(value: &mut Value, name: &str, mut samples: Vec<f64>) {
    value[name] = json!(round(percentile(&mut samples, 50.0)));
    value["min"] = json!(round(samples.first().copied().unwrap_or(0.0)));
    value["max"] = json!(round(samples.last().copied().unwrap_or(0.0)));
}

/// To four digits; the rest is noise.
pub(super) fn round(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return 0.0;
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    let scale = 10f64.powi(digits.abs());
    if digits >= 0 { (number * scale).round() / scale } else { (number / scale).round() * scale }
}

/// Whether figures must be taken again: somebody else used the machine, or the disk's flush moved.
pub(super) fn noisy(others_cpu: impl IntoIterator<Item = f64>, limits: &[Limits]) -> bool {
    let flushes = || limits.iter().map(|limits| limits.flush_p50_us);
    let (least, most) = (flushes().fold(f64::INFINITY, f64::min), flushes().fold(0.0, f64::max));
    others_cpu.into_iter().any(|cores| cores > OTHERS_CPU_MAX) || most > FLUSH_MOVES_MAX * least
}

/// Where processes and the machine stood when a measurement began.
#[derive(Debug)]
pub(super) struct Usage<const N: usize> {
    since: Instant,
    processes: [Process; N],
    own_s: f64,
    machine_s: f64,
}

/// What was used since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used<const N: usize> {
    /// CPU time of each process, seconds.
    pub(super) cpu_s: [f64; N],
    /// Most memory each process ever held, MiB.
    pub(super) peak_mib: [f64; N],
    /// Cores that were used by none of them, nor by this process.
    pub(super) others_cpu: f64,
}

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    cpu_s: f64,
    rss_mib: f64,
    peak_mib: f64,
}

impl Usage<1> {
    /// Of this process, from now on.
    pub(super) fn own() -> Result<Self> {
        Self::of(&[std::process::id()])
    }
}

impl<const N: usize> Usage<N> {
    /// Of these processes, from now on.
    pub(super) fn of(pids: &[u32; N]) -> Result<Self> {
        Ok(Self {
            since: Instant::now(),
            processes: read_all(pids)?,
            own_s: Process::read(std::process::id())?.cpu_s,
            machine_s: machine_s()?,
        })
    }

    /// Memory each held then, MiB.
    pub(super) fn rss_mib(&self) -> [f64; N] {
        self.processes.map(|process| process.rss_mib)
    }

    /// Up to now. One that was started again meanwhile has another pid, and all that it used counts.
    pub(super) fn until_now(&self, pids: &[u32; N]) -> Result<Used<N>> {
        let now = read_all(pids)?;
        let own = std::process::id();
        let mut cpu_s = [0.0; N];
        for (cpu_s, (now, before)) in cpu_s.iter_mut().zip(now.iter().zip(&self.processes)) {
            *cpu_s = now.cpu_s - if now.pid == before.pid { before.cpu_s } else { 0.0 };
        }
        let theirs: f64 =
            cpu_s.iter().zip(pids).filter(|(_, pid)| **pid != own).map(|(cpu_s, _)| cpu_s).sum();
        let ours = theirs + Process::read(own)?.cpu_s - self.own_s;
        let seconds = self.since.elapsed().as_secs_f64().max(1.0 / TICKS_PER_S);
        let others_cpu = ((machine_s()? - self.machine_s - ours) / seconds).max(0.0);
        Ok(Used { cpu_s, peak_mib: now.map(|process| process.peak_mib), others_cpu })
    }
}

fn read_all<const N: usize>(pids: &[u32; N]) -> Result<[Process; N]> {
    let read = pids.iter().map(|pid| Process::read(*pid)).collect::<Result<Vec<_>>>()?;
    read.try_into().map_err(|_| anyhow!("as many processes as pids"))
}

impl Process {
    fn read(pid: u32) -> Result<Self> {
        let text = |name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("process {pid} is gone"))
        };
        let (stat, status) = (text("stat")?, text("status")?);
        // The name in brackets may hold spaces. After it, 12th and on: user and system time, then
        // those of children that were waited for.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(4).map(number);
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            number(line.unwrap_or("").trim_end_matches("kB").trim()) / 1024.0
        };
        let cpu_s = ticks.sum::<f64>() / TICKS_PER_S;
        Ok(Self { pid, cpu_s, rss_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") })
    }
}

/// Seconds that all cores together have worked for processes since the machine started: user, nice and
/// system. Interrupts are left out: most of them are our own packets, and no process is charged for them.
fn machine_s() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("no /proc/stat")?;
    let first = stat.lines().next().unwrap_or("");
    let ticks = first.split_whitespace().skip(1).take(3).map(number);
    Ok(ticks.sum::<f64>() / TICKS_PER_S)
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or(0.0)
}

type Fields = serde_json::Map<String, Value>;

fn fields(value: &Value) -> &Fields {
    static NONE: LazyLock<Fields> = LazyLock::new(Fields::new);
    value.as_object().unwrap_or(&NONE)
}

/// A result's fields besides suite and case, the rate first and how far it is to be trusted last; what
/// lies in a field is written as `field.inner`.
fn cells(value: &Value) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (name, value) in fields(value).iter().filter(|(name, _)| !UNSEEN.contains(&name.as_str())) {
        match value {
            Value::Object(inner) => {
                cells
                    .extend(inner.iter().map(|(at, value)| (format!("{name}.{at}"), plain(value))));
            }
            value => cells.push((name.clone(), plain(value))),
        }
    }
    cells.sort_by_key(|(name, _)| match name.as_str() {
        "min" => 1,
        "max" => 2,
        "n" => 5,
        "others_cpu" => 6,
        "noisy" => 7,
        limit if limit.starts_with("limits.") => 4,
        rate if rate.ends_with("per_s") => 0,
        _ => 3,
    });
    cells
}

fn names(value: &Value) -> Vec<String> {
    cells(value).into_iter().map(|(name, _)| name).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().unwrap_or(0.0).to_string(),
        other => other.to_string(),
    }
}

/// Results with the same fields below each other: the suite's name, then a row a case.
fn table(values: &[Value]) -> String {
    let mut rows = Vec::new();
    if let Some(first) = values.first() {
        let head = format!("{} ({})", plain(&first["suite"]), *REV);
        rows.push([vec![head], names(first)].concat());
    }
    for value in values {
        let cells = cells(value).into_iter().map(|(_, text)| text).collect();
        rows.push([vec![plain(&value["case"])], cells].concat());
    }
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_begins_with_suite_and_case_and_names_the_revision() {
        let value = json!({"n": 3, "case": "stream", "suite": "pipeline", "rss_mib": {"a": 1.5}});
        let text = to_json(&value);
        assert!(text.starts_with(r#"{"suite":"pipeline","case":"stream","n":3,"#), "{text}");
        let read: Value = serde_json::from_str(&text).expect("json");
        assert_eq!(read["rss_mib"]["a"], 1.5);
        assert!(read["git"].as_str().is_some_and(|rev| !rev.is_empty()));
    }

    #[test]
    fn percentiles_are_samples() {
        let mut samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(median(samples.to_vec()), 3.0);
        assert_eq!(percentile(&mut samples, 99.0), 5.0);
        assert_eq!(percentile(&mut samples, 1.0), 1.0);
        assert_eq!(median(Vec::new()), 0.0);
        assert_eq!([123_456.0, 0.012_344, 0.0].map(round), [123_500.0, 0.012_34, 0.0]);
    }

    #[test]
    fn what_this_process_used_is_not_others() {
        let pids = [std::process::id()];
        let usage = Usage::own().expect("this process");
        let mut sum = 0u64;
        while usage.until_now(&pids).expect("this process").cpu_s[0] < 0.05 {
            sum = (0..100_000u64).fold(sum, u64::wrapping_add);
        }
        let used = usage.until_now(&pids).expect("this process");
        assert!(usage.rss_mib()[0] > 0.5 && used.peak_mib[0] >= usage.rss_mib()[0], "{used:?}");
        assert!(used.others_cpu.is_finite());
        assert!(Usage::of(&[u32::MAX]).is_err());
    }

    #[test]
    fn a_run_is_noisy_by_others_or_by_its_disk() {
        let limits = |p50s: &[f64]| -> Vec<Limits> {
            p50s.iter().map(|p50| Limits { flush_p50_us: *p50, ..Limits::default() }).collect()
        };
        assert!(!noisy([0.1], &[]));
        assert!(noisy([0.1, 0.3], &[]));
        assert!(!noisy([0.1], &limits(&[100.0, 190.0])));
        assert!(noisy([0.1], &limits(&[100.0, 190.0, 201.0])));
    }

    #[test]
    fn a_table_has_a_head_and_a_row_a_case() {
        let row = |case: &str| json!({"suite": "store", "case": case, "p": {"a": 1.0}, "n": 3, "rows_per_s": 2.5});
        let text = table(&[row("one"), row("another")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[0])[2..], ["rows_per_s", "p.a", "n"], "{text}");
        assert_eq!(words(lines[2]), ["another", "2.5", "1", "3"], "{text}");
    }
}
