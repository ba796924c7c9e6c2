//! Sealing alone: what a region pays to seal and sign a segment, and what a recipient pays to take it
//! apart, check it and open it.

use super::Options;
use super::limits::{self, Limits};
use super::report::{self, Usage, median, noisy, put_spread, round};
use anyhow::{Result, ensure};
use domain::kernel::{AgreementId, Clock as _, Entropy as _, Epoch, Lane, RegionId};
use domain::stream::StreamId;
use runtime::clock::{SystemClock, SystemEntropy};
use seal::key::{SealingKey, SigningKey};
use seal::segment::{Range, SaltedEntry, Segment};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Entries of a segment, and recipients beside its origin.
const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 10), (64, 1), (64, 10), (512, 1), (512, 10)];
/// Bytes of an entry that no compression shrinks, as ids and hashes are, and of its text.
const RANDOM_BYTES: usize = 60;
const TEXT: &str =
    "黑溪桥头落石挡道，可绕行；已放警示牌，请沿线巡查员留意边坡，雨后复查，情况由村组上报。";

/// What one round of a shape came to: microseconds a segment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seal_us: f64,
    open_us: f64,
    bytes: f64,
    others_cpu: f64,
}

/// Runs the suite.
pub(super) async fn run(options: &Options) -> Result<bool> {
    let lines = lines(options.data.as_deref(), options.rounds, 1.0, 0.5)?;
    report::print(&lines, options.json)?;
    Ok(true)
}

/// Round by round, so that what drifts drifts for all.
fn lines(
    parent: Option<&Path>,
    rounds: usize,
    seconds: f64,
    limits_seconds: f64,
) -> Result<Vec<Value>> {
    let mut samples = SHAPES.map(|_| Vec::with_capacity(rounds));
    let mut limits = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        limits.push(limits::measure_for(parent, limits_seconds)?);
        for (samples, (entries, recipients)) in samples.iter_mut().zip(SHAPES) {
            samples.push(measure(entries, recipients, seconds)?);
        }
    }
    let told = SHAPES.into_iter().zip(&samples);
    Ok(told.flat_map(|(shape, samples)| both(shape, samples, &limits)).collect())
}

fn both(
    (entries, recipients): (usize, usize),
    samples: &[Sample],
    limits: &[Limits],
) -> [Value; 2] {
    let of = |pick: fn(&Sample) -> f64| samples.iter().map(pick).collect::<Vec<f64>>();
    let count = entries as f64;
    let line = |name: &str, us: Vec<f64>| {
        let others_cpu = of(|s| s.others_cpu);
        let mut line = json!({
            "suite": "seal",
            "case": format!("{name}_{entries}_{recipients}"),
            "entries": entries,
            "recipients": recipients,
            "us_per_segment": round(median(us.clone())),
            "us_per_entry": round(median(us.clone()) / count),
            "bytes_per_entry": round(median(of(|s| s.bytes)) / count),
            "limits": limits::named(limits),
            "n": samples.len(),
            "others_cpu": round(median(others_cpu.clone())),
            "noisy": noisy(others_cpu, limits),
        });
        put_spread(&mut line, "entries_per_s", us.iter().map(|us| count * 1e6 / us).collect());
        line
    };
    [line("seal", of(|s| s.seal_us)), line("open", of(|s| s.open_us))]
}

/// Seals for half of the time and opens for the other half.
fn measure(entries: usize, recipients: usize, seconds: f64) -> Result<Sample> {
    let now = SystemClock.now();
    let origin: RegionId = "origin".parse()?;
    let stream = StreamId {
        origin: origin.clone(),
        epoch: Epoch::mint(now, &SystemEntropy),
        agreement: AgreementId::mint(now, &SystemEntropy),
        version: 1,
        lane: Lane::Routine,
    };
    let (signing, sealing) = (SigningKey::generate(&SystemEntropy), SealingKey::generate());
    let mut parties = vec![(origin, SealingKey::generate().public())];
    for number in 1..=recipients {
        parties.push((format!("neighbour-{number}").parse()?, sealing.public()));
    }
    let entries: Vec<SaltedEntry> = (0..entries).map(|_| entry()).collect();
    let sealed = || {
        let before = seal::chain::start(&stream);
        let range = Range { stream: &stream, before, entries: &entries, expires_at: now };
        Ok(seal::segment::seal(range, &signing, &parties, &SystemEntropy)?)
    };
    let usage = Usage::own()?;
    let wanted = Duration::from_secs_f64(seconds / 2.0);
    let seal_us = each_us(wanted, || sealed().map(drop))?;
    let bytes = bytes::Bytes::from(sealed()?.bytes);
    let (recipient, _) = &parties[1];
    let open_us = each_us(wanted, || {
        let segment = Segment::parse(bytes.clone())?;
        segment.verify(&signing.public())?;
        ensure!(segment.open(recipient, &sealing)?.len() == entries.len(), "an entry was lost");
        Ok(())
    })?;
    let others_cpu = usage.until_now(&[std::process::id()])?.others_cpu;
    Ok(Sample { seal_us, open_us, bytes: bytes.len() as f64, others_cpu })
}

fn entry() -> SaltedEntry {
    let mut random = [0; RANDOM_BYTES];
    SystemEntropy.fill(&mut random);
    let mut salt = [0; 16];
    SystemEntropy.fill(&mut salt);
    SaltedEntry { salt, entry: [&random, TEXT.as_bytes()].concat().into() }
}

/// Microseconds that `act` takes, over so long.
fn each_us(wanted: Duration, mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let (from, mut count) = (Instant::now(), 0.0);
    loop {
        act()?;
        count += 1.0;
        let took = from.elapsed();
        if took >= wanted {
            return Ok(took.as_secs_f64() * 1e6 / count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::to_json;

    #[test]
    fn every_shape_is_sealed_opened_and_told() {
        let lines = lines(None, 1, 0.0, 0.01).expect("measured");
        assert_eq!(lines.len(), 2 * SHAPES.len());
        for line in &lines {
            let read: Value = serde_json::from_str(&to_json(line)).expect("json");
            assert_eq!(read["suite"], "seal");
            for name in ["entries_per_s", "us_per_segment", "us_per_entry", "bytes_per_entry"] {
                assert!(read[name].as_f64() > Some(0.0), "{name} of {read}");
            }
            assert!(read["noisy"].is_boolean() && read["limits"].is_object(), "{read}");
        }
    }
}
