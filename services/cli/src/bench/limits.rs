//! What the machine gives, bare: the figures that every other suite's are held against, measured in the
//! same run, because absolute ones drift by a third from hour to hour.

use super::Options;
use super::report::{self, Usage, median, noisy, percentile, put_spread, round};
use anyhow::{Context as _, Result};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// How long each is measured.
const SECONDS_EACH: f64 = 2.0;
/// Bytes of a record.
const RECORD_BYTES: usize = 300;
/// Bytes flushed at a time.
const PAGE_BYTES: usize = 4 * 1024;
/// Pages that are preallocated, then written over again and again.
const PAGES: u64 = 4 * 1024;
/// Rows in each of SQLite's transactions.
const ROWS_PER_TX: u64 = 1_000;
/// Bytes handed to the socket at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// What the machine gave in one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// `fdatasync` of 4 KiB appended to a file that grows, a second.
    pub(super) flushes_per_s: f64,
    /// Median of one.
    pub(super) flush_p50_us: f64,
    /// Of a hundred, the slowest but one.
    pub(super) flush_p99_us: f64,
    /// `fdatasync` of 4 KiB into blocks that were there, a second.
    pub(super) flushes_prealloc_per_s: f64,
    /// Median of one.
    pub(super) flush_prealloc_p50_us: f64,
    /// Of a hundred, the slowest but one.
    pub(super) flush_prealloc_p99_us: f64,
    /// Round trips of 300 bytes over loopback TCP, blocking, a second.
    pub(super) tcp_trips_per_s: f64,
    /// Median of one.
    pub(super) tcp_trip_p50_us: f64,
    /// Of a hundred, the slowest but one.
    pub(super) tcp_trip_p99_us: f64,
    /// Bandwidth of one loopback TCP connection.
    pub(super) tcp_mib_per_s: f64,
    /// Rows of 300 bytes into bare SQLite: WAL, `synchronous=FULL`, rowid and UNIQUE id, ids in the order
    /// of time, 1,000 rows a transaction.
    pub(super) sqlite_rows_per_s: f64,
    /// CPU of a row.
    pub(super) sqlite_cpu_us_per_row: f64,
}

/// The two that every line names, over the rounds: flushes of a growing file, rows of bare SQLite.
pub(super) fn named(limits: &[Limits]) -> Value {
    let of = |pick: fn(&Limits) -> f64| round(median(limits.iter().map(pick).collect()));
    json!({
        "flushes_per_s": of(|l| l.flushes_per_s),
        "sqlite_rows_per_s": of(|l| l.sqlite_rows_per_s),
    })
}

/// Runs the suite: each limit a line.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let lines = lines(options.data.as_deref(), options.rounds, SECONDS_EACH)?;
    report::print(&lines, options.json)?;
    Ok(true)
}

/// Measures all, each for so many seconds, with files below `parent`; blocks its thread meanwhile.
pub(super) fn measure_for(parent: Option<&Path>, seconds: f64) -> Result<Limits> {
    let scratch = scratch(parent)?;
    let wanted = Duration::from_secs_f64(seconds);
    let mut growing = flushes(&scratch.path().join("growing"), 0, wanted)?;
    let mut prealloc = flushes(&scratch.path().join("preallocated"), PAGES, wanted)?;
    let mut trips = round_trips(wanted)?;
    let tcp_mib_per_s = bandwidth(wanted)?;
    let (sqlite_rows_per_s, sqlite_cpu_us_per_row) =
        sqlite(&scratch.path().join("bare.sqlite"), wanted)?;
    let (flushes_per_s, flush_p50_us, flush_p99_us) = timed(&mut growing);
    let (flushes_prealloc_per_s, flush_prealloc_p50_us, flush_prealloc_p99_us) =
        timed(&mut prealloc);
    let (tcp_trips_per_s, tcp_trip_p50_us, tcp_trip_p99_us) = timed(&mut trips);
    Ok(Limits {
        flushes_per_s,
        flush_p50_us,
        flush_p99_us,
        flushes_prealloc_per_s,
        flush_prealloc_p50_us,
        flush_prealloc_p99_us,
        tcp_trips_per_s,
        tcp_trip_p50_us,
        tcp_trip_p99_us,
        tcp_mib_per_s,
        sqlite_rows_per_s,
        sqlite_cpu_us_per_row,
    })
}

/// A folder that is removed after the measurement.
pub(super) fn scratch(parent: Option<&Path>) -> Result<TempDir> {
    let dir = match parent {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    dir.context("no folder for the files")
}

fn lines(parent: Option<&Path>, rounds: usize, seconds: f64) -> Result<Vec<Value>> {
    let usage = Usage::own()?;
    let measured = (0..rounds).map(|_| measure_for(parent, seconds)).collect::<Result<Vec<_>>>()?;
    let others_cpu = usage.until_now(&[std::process::id()])?.others_cpu;
    let of = |pick: fn(&Limits) -> f64| measured.iter().map(pick).collect::<Vec<f64>>();
    let line = |case, name, rate: fn(&Limits) -> f64| {
        let mut line = json!({
            "suite": "limits",
            "case": case,
            "n": rounds,
            "others_cpu": round(others_cpu),
            "noisy": noisy([others_cpu], &measured),
        });
        put_spread(&mut line, name, of(rate));
        line
    };
    let timed = |case, rate, p50, p99| {
        let mut line = line(case, "per_s", rate);
        line["p50_us"] = json!(round(median(of(p50))));
        line["p99_us"] = json!(round(median(of(p99))));
        line
    };
    let mut sqlite = line("sqlite", "rows_per_s", |l| l.sqlite_rows_per_s);
    sqlite["cpu_us_per_row"] = json!(round(median(of(|l| l.sqlite_cpu_us_per_row))));
    Ok(vec![
        timed("flush_growing", |l| l.flushes_per_s, |l| l.flush_p50_us, |l| l.flush_p99_us),
        timed(
            "flush_preallocated",
            |l| l.flushes_prealloc_per_s,
            |l| l.flush_prealloc_p50_us,
            |l| l.flush_prealloc_p99_us,
        ),
        timed(
            "tcp_round_trip",
            |l| l.tcp_trips_per_s,
            |l| l.tcp_trip_p50_us,
            |l| l.tcp_trip_p99_us,
        ),
        line("tcp_bandwidth", "mib_per_s", |l| l.tcp_mib_per_s),
        sqlite,
    ])
}

/// Rate, median and 99th percentile of things that took these microseconds.
fn timed(samples_us: &mut [f64]) -> (f64, f64, f64) {
    let total: f64 = samples_us.iter().sum();
    let rate = samples_us.len() as f64 * 1e6 / total.max(1.0);
    (rate, percentile(samples_us, 50.0), percentile(samples_us, 99.0))
}

/// Microseconds each `act` took, for so long.
fn repeat(wanted: Duration, mut act: impl FnMut(u64) -> Result<()>) -> Result<Vec<f64>> {
    let (mut samples, begun) = (Vec::new(), Instant::now());
    let mut last = begun;
    for nth in 0.. {
        act(nth)?;
        let now = Instant::now();
        samples.push((now - last).as_secs_f64() * 1e6);
        last = now;
        if now - begun >= wanted {
            break;
        }
    }
    Ok(samples)
}

/// Flushes page after page: into `pages` that were written before, or to the end of a file that grows.
fn flushes(path: &Path, pages: u64, wanted: Duration) -> Result<Vec<f64>> {
    let file = File::create(path)?;
    let page = [7; PAGE_BYTES];
    let place = |nth: u64| nth * PAGE_BYTES as u64;
    for nth in 0..pages {
        file.write_all_at(&page, place(nth))?;
    }
    file.sync_all()?;
    repeat(wanted, |nth| {
        file.write_all_at(&page, place(nth.checked_rem(pages).unwrap_or(nth)))?;
        Ok(file.sync_data()?)
    })
}

fn connected() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

fn round_trips(wanted: Duration) -> Result<Vec<f64>> {
    let (mut near, mut far) = connected()?;
    std::thread::scope(|threads| {
        let echo = threads.spawn(move || -> std::io::Result<()> {
            let mut record = [0; RECORD_BYTES];
            // The other end hangs up when it has seen enough.
            while far.read_exact(&mut record).is_ok() {
                far.write_all(&record)?;
            }
            Ok(())
        });
        let mut record = [7; RECORD_BYTES];
        let samples = repeat(wanted, |_| {
            near.write_all(&record)?;
            Ok(near.read_exact(&mut record)?)
        });
        drop(near);
        echo.join().expect("the echo does not panic")?;
        samples
    })
}

fn bandwidth(wanted: Duration) -> Result<f64> {
    let (mut near, mut far) = connected()?;
    std::thread::scope(|threads| {
        let reader = threads.spawn(move || -> std::io::Result<usize> {
            let (mut chunk, mut total) = (vec![0; CHUNK_BYTES], 0);
            loop {
                match far.read(&mut chunk)? {
                    0 => return Ok(total),
                    read => total += read,
                }
            }
        });
        let begun = Instant::now();
        let chunk = vec![7; CHUNK_BYTES];
        let sent = repeat(wanted, |_| Ok(near.write_all(&chunk)?));
        drop(near);
        let read = reader.join().expect("the reader does not panic")?;
        sent?;
        Ok(read as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
    })
}

/// Rows a second and CPU microseconds a row.
fn sqlite(path: &Path, wanted: Duration) -> Result<(f64, f64)> {
    let mut conn = Connection::open(path)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch("CREATE TABLE r (n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, payload BLOB NOT NULL) STRICT")?;
    let payload = [7; RECORD_BYTES];
    let (usage, begun) = (Usage::own()?, Instant::now());
    let samples = repeat(wanted, |nth| {
        let tx = conn.transaction()?;
        for row in nth * ROWS_PER_TX..(nth + 1) * ROWS_PER_TX {
            let id = (u128::from(row) << 64).to_be_bytes();
            tx.prepare_cached("INSERT INTO r (id, payload) VALUES (?1, ?2)")?
                .execute((id.as_slice(), payload.as_slice()))?;
        }
        Ok(tx.commit()?)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let rows = samples.len() as f64 * ROWS_PER_TX as f64;
    let [cpu_s] = usage.until_now(&[std::process::id()])?.cpu_s;
    Ok((rows / seconds, cpu_s * 1e6 / rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::to_json;

    #[test]
    fn every_limit_is_measured_and_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let lines = lines(Some(dir.path()), 2, 0.02).expect("measured");
        let mut cases = Vec::new();
        for line in &lines {
            let read: Value = serde_json::from_str(&to_json(line)).expect("json");
            assert_eq!((&read["suite"], &read["n"]), (&json!("limits"), &json!(2)));
            let main = ["per_s", "mib_per_s", "rows_per_s"].iter().find_map(|m| read.get(m));
            let main = main.and_then(Value::as_f64).expect("a figure");
            assert!(main > 0.0, "{read}");
            assert!(read["min"].as_f64() <= Some(main) && Some(main) <= read["max"].as_f64());
            assert!(read["noisy"].is_boolean() && read["others_cpu"].is_number(), "{read}");
            cases.push(read["case"].as_str().expect("a case").to_owned());
        }
        let all =
            ["flush_growing", "flush_preallocated", "tcp_round_trip", "tcp_bandwidth", "sqlite"];
        assert_eq!(cases, all);
        assert!(std::fs::read_dir(dir.path()).expect("the folder").next().is_none());
    }
}
