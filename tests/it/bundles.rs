//! Two regions without any line converge by files alone, in whatever order these come; and a file is believed
//! no further than a line is.

use crate::explain::{accept, explain, folder, of, report, wuling};
use crate::harness::{A, ARRIVES, B, World, converged, event, sos, views};
use cli::bundle::read_part;
use cli::phone::Phone;
use domain::kernel::{Purpose, Role};
use domain::operation::Change;
use prost::Message as _;
use prost::bytes::Bytes;
use proto::agreement::v1 as pb;
use proto::exchange::v1::{BundleEnd, BundlePart, bundle_part::Part};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Exports from one region's desk for another.
fn export(world: &World, from: &str, to: &str, name: &str) -> PathBuf {
    let (store, path) = (folder(world, from, "desk"), world.path(name));
    let (store, out) = (store.to_str().unwrap(), path.to_str().unwrap());
    let done = std::process::Command::new(crate::harness::binary("wuling"))
        .args(["bundle", "export", "--store", store, "--to", to, "--out", out])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    path
}

/// Imports at a region's desk; gives whether all was taken, and the answer or the refusal.
fn import(world: &World, at: &str, file: &Path) -> (bool, Result<Value, String>) {
    let store = folder(world, at, "desk");
    let done = std::process::Command::new(crate::harness::binary("wuling"))
        .args(["bundle", "import", "--json", "--store", store.to_str().unwrap()])
        .arg(file)
        .output()
        .unwrap();
    let told = serde_json::from_slice(&done.stdout);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.success(), told.map_err(|_| said))
}

fn parts(file: &Path) -> Vec<BundlePart> {
    let bytes = std::fs::read(file).unwrap();
    let mut from = bytes.as_slice();
    std::iter::from_fn(|| read_part(&mut from).unwrap().map(|(part, _)| part)).collect()
}

/// Writes a bundle of these parts, the end of which counts them rightly.
fn written(world: &World, name: &str, parts: impl IntoIterator<Item = BundlePart>) -> PathBuf {
    let body = parts.into_iter().filter(|part| !matches!(part.part, Some(Part::End(_))));
    let mut body: Vec<_> = body.collect();
    let end = BundleEnd { part_count: body.len() as u64 };
    body.push(BundlePart { part: Some(Part::End(end)) });
    let bytes = body.iter().flat_map(|part| part.encode_length_delimited_to_vec());
    let path = world.path(name);
    std::fs::write(&path, bytes.collect::<Vec<_>>()).unwrap();
    path
}

fn is_segment(part: &BundlePart) -> bool {
    matches!(part.part, Some(Part::Segment(_)))
}

/// Digest and count of a stream, as a region tells it.
async fn digest(desk: &Phone, stream: &pb::StreamKey) -> (Vec<u8>, u64) {
    let purpose = Purpose::Operation.code();
    let request = pb::GetStreamDigestRequest { stream: Some(stream.clone()), purpose };
    let mut service = cli::client::agreement_service(desk.channel());
    let answer = service.get_stream_digest(request).await.unwrap().into_inner();
    (answer.digest.to_vec(), answer.view_count)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_without_a_line_converge_by_bundles_in_any_order() {
    let mut world = World::start().await;
    world.gateway.kill();
    let mut phone_a = world.enrol(A, Role::Patroller, "phone").await;
    let mut phone_b = world.enrol(B, Role::Patroller, "phone").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;

    let record = report(&mut phone_a, Change::ReportEvent(event("落石"))).await;
    let first = export(&world, A, B, "first");
    for _ in 0..20 {
        report(&mut phone_a, Change::ReportEvent(event("积水"))).await;
    }
    accept(&desk_a, record).await;
    report(&mut phone_a, Change::RaiseSos(sos("摔伤"))).await;
    report(&mut phone_b, Change::ReportEvent(event("林火"))).await;
    let second = export(&world, A, B, "second");

    // The later one first, then the earlier one, then both again.
    let (whole, told) = import(&world, B, &second);
    let told = told.unwrap();
    assert!(whole, "{told}");
    assert_eq!(told["refusals"], json!([]));
    let brought: u64 = told["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["applied_seq"].as_u64().unwrap())
        .sum();
    assert_eq!(brought, 25, "22 views of events, one of a call, two starts: {told}");
    assert_eq!(views(desk_b.channel()).await, 23, "each view once");
    for again in [&first, &second, &first] {
        let (whole, told) = import(&world, B, again);
        assert!(whole);
        for stream in told.unwrap()["streams"].as_array().unwrap() {
            assert_eq!(stream["seq_before"], stream["applied_seq"], "a repeat is harmless");
        }
    }
    assert_eq!(views(desk_b.channel()).await, 23);

    // The way back carries receipts, and what B has to tell.
    let store = folder(&world, A, "desk");
    let state = || {
        let told = explain(store.to_str().unwrap(), record, &["--party", B]).unwrap();
        of(&told, B)["deliveries"][0]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(), "QUEUED");
    let back = export(&world, B, A, "back");
    let (whole, told) = import(&world, A, &back);
    assert!(whole);
    assert_eq!(told.unwrap()["receipts"], 2);
    assert_eq!(state(), "APPLIED");
    assert_eq!(views(desk_a.channel()).await, 1);

    // What was signed for is not carried again.
    assert!(!parts(&export(&world, A, B, "third")).iter().any(is_segment));
    let streams: Vec<_> = parts(&second)
        .into_iter()
        .filter_map(|part| match part.part {
            Some(Part::Segment(bytes)) => {
                Some(seal::segment::Segment::parse(bytes).unwrap().stream().clone())
            }
            _ => None,
        })
        .collect();
    assert_eq!(streams.len(), 2);
    for stream in &streams {
        let stream = pb::StreamKey::from(stream);
        let (at_a, at_b) = (digest(&desk_a, &stream).await, digest(&desk_b, &stream).await);
        assert_eq!(at_a, at_b);
        assert!(at_a.1 > 0);
    }

    // A line that comes back finds all of it known, and goes on from there.
    world.gateway.restart().await;
    report(&mut phone_a, Change::ReportEvent(event("塌方"))).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 24);
    assert_eq!(views(desk_b.channel()).await, 24);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_believed_no_further_than_its_signatures_go() {
    let mut world = World::start().await;
    world.gateway.kill();
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    // Enough for several segments.
    let (request, records) = crate::harness::batch(&phone, 1, 1_000);
    let mut service = cli::client::device_service(phone.channel());
    service.push(request).await.unwrap();
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    let good = export(&world, A, B, "good");
    let all = parts(&good);
    let segments: Vec<_> = (0..all.len()).filter(|&at| is_segment(&all[at])).collect();
    assert!(segments.len() >= 2, "{} segments", segments.len());

    // One flipped bit in each part that is signed: it is refused by name, and what stands after it waits.
    let flipped = |at: usize| {
        let mut parts = all.clone();
        let part = parts[at].part.as_mut().unwrap();
        let flip = |bytes: &Bytes| {
            let mut bytes = bytes.to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            Bytes::from(bytes)
        };
        match part {
            Part::Segment(bytes) => *bytes = flip(bytes),
            Part::Agreement(object) | Part::Head(object) | Part::Receipt(object) => {
                object.signatures[0].signature = flip(&object.signatures[0].signature);
            }
            Part::Trust(set) => {
                let freshness = set.freshness.as_mut().unwrap();
                freshness.signatures[0].signature = flip(&freshness.signatures[0].signature);
            }
            Part::Header(_) | Part::End(_) => return None,
        }
        Some(parts)
    };
    for (at, part) in all.iter().enumerate() {
        let Some(parts) = flipped(at) else { continue };
        if is_segment(part) && at != segments[0] {
            continue;
        }
        // Only the broken part and what stands around it, so that nothing else can be taken.
        let few = parts.into_iter().enumerate().filter(|(n, part)| *n == at || !is_segment(part));
        let file = written(&world, "flipped", few.map(|(_, part)| part));
        let (whole, told) = import(&world, B, &file);
        let told = told.unwrap();
        assert!(!whole, "{told}");
        assert_eq!(told["refusals"][0]["reason"], "SIGNATURE_INVALID", "part {at}: {told}");
        assert_eq!(told["refusals"].as_array().unwrap().len(), 1);
        assert_eq!(views(desk_b.channel()).await, 0);
    }

    // Past a gap nothing is applied; the file says what it waits for.
    let later = all.iter().enumerate().filter(|(at, _)| *at != segments[0]);
    let later = written(&world, "later", later.map(|(_, part)| part.clone()));
    let (whole, told) = import(&world, B, &later);
    let told = told.unwrap();
    assert!(!whole);
    let stream = &told["streams"][0];
    assert_eq!((&stream["applied_seq"], &told["refusals"]), (&json!(0), &json!([])), "{told}");
    assert!(stream["known_seq"].as_u64().unwrap() > 1_000);
    assert_eq!(views(desk_b.channel()).await, 0);

    // For somebody else, cut off, or put together wrongly.
    let (_, told) = import(&world, A, &good);
    assert!(told.unwrap_err().contains("[FIELD_INVALID]"));
    let whole_file = std::fs::read(&good).unwrap();
    let cut = world.path("cut");
    std::fs::write(&cut, &whole_file[..whole_file.len() - 1]).unwrap();
    let (whole, told) = import(&world, B, &cut);
    assert!(!whole && told.unwrap_err().contains("cut off"));
    let headless = written(&world, "headless", all[1..].to_vec());
    assert!(import(&world, B, &headless).1.unwrap_err().contains("[FIELD_INVALID]"));

    // What came before the cut was taken; the whole file, the control, brings the rest.
    let (whole, told) = import(&world, B, &good);
    assert!(whole, "{told:?}");
    assert_eq!(views(desk_b.channel()).await, records.len() + 1);
    let refused = wuling(&["bundle", "export", "--store", "nowhere", "--to", B, "--out", "x"]);
    assert!(refused.is_err());
}
