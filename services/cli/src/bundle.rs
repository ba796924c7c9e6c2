//! Bundles as files: parts one after another, each after its length.

use crate::client::agreement_service;
use crate::explain::stream_text;
use crate::phone::{Phone, said};
use crate::progress::Progress;
use anyhow::{Context as _, Result, bail, ensure};
use domain::kernel::{Purpose, Reason, RegionId};
use prost::Message as _;
use prost::encoding::decode_varint;
use proto::agreement::v1 as pb;
use proto::exchange::v1::{BundleEnd, BundlePart, bundle_part::Part};
use serde_json::json;
use std::io::{BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use tokio_stream::StreamExt as _;

/// Bytes of a part: a segment and what stands around it.
const PART_BYTES_MAX: u64 = 2 * 1_024 * 1_024 + 1_024;
/// Parts that are read before the region has taken those before.
const PARTS_QUEUED_MAX: usize = 4;

/// Has a region make a bundle for a party. The file appears when it is whole.
///
/// # Errors
/// When the region refuses, does not answer, or the disk refuses.
#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub async fn export(phone: &Phone, to: &RegionId, out: &Path) -> Result<()> {
    let folder = out.parent().filter(|dir| !dir.as_os_str().is_empty());
    let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
        .with_context(|| format!("cannot write {}", out.display()))?;
    let mut writer = BufWriter::new(file);
    let request =
        pb::ExportBundleRequest { to_region: to.to_string(), purpose: Purpose::Operation.code() };
    let mut service = agreement_service(phone.channel());
    let mut parts = service.export_bundle(request).await.map_err(said)?.into_inner();
    let (mut count, mut whole) = (0_u64, false);
    let mut progress = Progress::of("parts 部分");
    while let Some(answer) = parts.message().await.map_err(said)? {
        let part = answer.part.context("the region sent a part that is none")?;
        whole = matches!(part.part, Some(Part::End(BundleEnd { .. })));
        writer.write_all(&part.encode_length_delimited_to_vec())?;
        count += 1;
        progress.tell(count, None);
    }
    ensure!(whole, "the region ended before the bundle did: try again");
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(out).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{count} parts 部分: {}", out.display());
    Ok(())
}

/// Hands a bundle to a region; tells whether all of it was taken.
///
/// # Errors
/// When the file is no bundle for the region, the region refuses or does not answer.
#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub async fn import(phone: &Phone, path: &Path, as_json: bool) -> Result<bool> {
    let cannot = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(cannot)?;
    let size = file.metadata().with_context(cannot)?.len();
    let mut reader = BufReader::new(file);
    let (sender, requests) = tokio::sync::mpsc::channel(PARTS_QUEUED_MAX);
    let read = async move {
        let (mut bytes, mut progress) = (0, Progress::of("bundle 数据包"));
        while let Some((part, taken)) = read_part(&mut reader)? {
            bytes += taken;
            let purpose = Purpose::Operation.code();
            let request = pb::ImportBundleRequest { part: Some(part), purpose };
            if sender.send(request).await.is_err() {
                // The region has refused; it says why.
                break;
            }
            progress.tell(bytes, Some(size));
        }
        anyhow::Ok(())
    };
    let mut service = agreement_service(phone.channel());
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests).fuse();
    let (read, answer) = tokio::join!(read, service.import_bundle(requests));
    // What the file says of itself comes first: the region sees but its end.
    read.with_context(|| format!("{} is damaged", path.display()))?;
    let answer = answer.map_err(said)?.into_inner();
    let whole = answer.refusals.is_empty()
        && answer.streams.iter().all(|stream| stream.applied_seq >= stream.known_seq);
    if as_json {
        println!("{}", told(&answer));
    } else {
        for stream in &answer.streams {
            println!("{}", fared(stream));
        }
        println!("{} receipts 回执", answer.receipt_count);
        for refusal in &answer.refusals {
            println!("part {} refused 拒收: {}", refusal.part, reason(refusal.reason));
        }
    }
    Ok(whole)
}

fn fared(stream: &pb::BundledStream) -> String {
    let id = stream.stream.as_ref().map(stream_text).unwrap_or_default();
    let mut text = format!("{id}: #{} → #{}", stream.seq_before, stream.applied_seq);
    if stream.parked_count > 0 {
        text += &format!(", {} parked 搁置", stream.parked_count);
    }
    if stream.known_seq > stream.applied_seq {
        text += &format!(
            ", goes to #{}: import the bundle before this one, then this one again 请先导入前一个数据包",
            stream.known_seq
        );
    }
    text
}

fn told(answer: &pb::ImportBundleResponse) -> serde_json::Value {
    let stream = |stream: &pb::BundledStream| {
        json!({
            "stream": stream.stream.as_ref().map(stream_text),
            "seq_before": stream.seq_before,
            "applied_seq": stream.applied_seq,
            "parked": stream.parked_count,
            "known_seq": stream.known_seq,
        })
    };
    let refusal = |refusal: &pb::BundleRefusal| json!({"part": refusal.part, "reason": reason(refusal.reason)});
    json!({
        "streams": answer.streams.iter().map(stream).collect::<Vec<_>>(),
        "receipts": answer.receipt_count,
        "refusals": answer.refusals.iter().map(refusal).collect::<Vec<_>>(),
    })
}

fn reason(code: i32) -> &'static str {
    Reason::try_from(code).map_or("UNKNOWN_REASON", Reason::name)
}

/// The next part of a bundle and the bytes it took; `None` at the end.
///
/// # Errors
/// When the file is cut off or holds something else.
pub fn read_part(from: &mut impl BufRead) -> Result<Option<(BundlePart, u64)>> {
    const LENGTH_BYTES_MAX: usize = 10;
    let mut length = Vec::new();
    loop {
        let mut byte = [0];
        match from.read(&mut byte)? {
            0 if length.is_empty() => return Ok(None),
            0 => bail!("it is cut off"),
            _ => length.extend(byte),
        }
        if byte[0] < 0x80 || length.len() == LENGTH_BYTES_MAX {
            break;
        }
    }
    let (head, length) = (length.len(), decode_varint(&mut length.as_slice())?);
    ensure!(length <= PART_BYTES_MAX, "a part of it is too large");
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    let taken = u64::try_from(bytes.len())?;
    ensure!(taken == length, "it is cut off");
    Ok(Some((BundlePart::decode(bytes.as_slice())?, taken + u64::try_from(head)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<u8> {
        let part = |count| BundlePart { part: Some(Part::End(BundleEnd { part_count: count })) };
        let large = BundlePart { part: Some(Part::Segment(vec![7; 300].into())) };
        [part(1), large, part(2)].iter().flat_map(|p| p.encode_length_delimited_to_vec()).collect()
    }

    #[test]
    fn parts_are_read_as_they_were_written() {
        let bytes = parts();
        let mut from = bytes.as_slice();
        let (mut found, mut taken) = (0, 0);
        while let Some((_, size)) = read_part(&mut from).unwrap() {
            (found, taken) = (found + 1, taken + size);
        }
        assert_eq!((found, taken), (3, bytes.len() as u64));
    }

    #[test]
    fn a_file_that_is_cut_off_or_something_else_is_seen() {
        let bytes = parts();
        for cut in 0..bytes.len() {
            let mut from = &bytes[..cut];
            let mut whole = 0;
            let end = loop {
                match read_part(&mut from) {
                    Ok(Some((_, size))) => whole += size,
                    end => break end,
                }
            };
            // Between two parts only the missing end tells, which the region looks for.
            assert_eq!(end.is_err(), whole < cut as u64, "cut at {cut}");
        }
        assert!(read_part(&mut [0xff; 11].as_slice()).is_err());
        assert!(read_part(&mut [0xff, 0xff, 0xff, 0x7f].as_slice()).is_err(), "a quarter of a GiB");
    }
}
