//! What lies under a segment's seal: u32be length, zstd frame of the encoded `SegmentBody`, zero
//! padding. A gateway sees its size, so an alert's is rounded up to one of few.

use crate::segment::{ENTRY_BYTES_MAX, SaltedEntry, SegmentError};
use bytes::Bytes;
use domain::kernel::Lane;
use prost::Message;
use proto::exchange::v1 as pb;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

/// Most bytes that a body may have when it is decompressed.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sizes to which an alert is padded; above the last, multiples of the last.
pub(crate) const ALERT_BUCKETS: [usize; 4] = [1 << 10, 4 << 10, 16 << 10, 64 << 10];

const ZSTD_LEVEL: i32 = 1;

/// The first byte of every field of an encoded `SegmentBody`: number 1, length-delimited.
const ENTRIES_KEY: u8 = 0x0a;

// A new context costs as much as all the cryptography of a small segment, so each thread keeps one.
// They carry nothing from one call to the next.
thread_local! {
    static COMPRESSOR: RefCell<Compressor<'static>> =
        RefCell::new(Compressor::new(ZSTD_LEVEL).expect("zstd has level 1"));
    static DECOMPRESSOR: RefCell<Decompressor<'static>> =
        RefCell::new(Decompressor::new().expect("zstd needs no dictionary"));
}

/// Encodes, compresses and pads.
pub(crate) fn encode(entries: &[SaltedEntry], lane: Lane) -> Vec<u8> {
    let body = pb::SegmentBody {
        entries: entries
            .iter()
            .map(|salted| pb::SaltedEntry {
                salt: Bytes::copy_from_slice(&salted.salt),
                entry: salted.entry.clone(),
            })
            .collect(),
    };
    frame(&body.encode_to_vec(), lane)
}

pub(crate) fn frame(body: &[u8], lane: Lane) -> Vec<u8> {
    let mut plaintext = vec![0; 4 + zstd::zstd_safe::compress_bound(body.len())];
    let len = COMPRESSOR
        .with_borrow_mut(|zstd| zstd.compress_to_buffer(body, &mut plaintext[4..]))
        .expect("the buffer holds the worst case");
    let head = u32::try_from(len).expect("a body is at most 4 MiB");
    plaintext[..4].copy_from_slice(&head.to_be_bytes());
    plaintext.truncate(4 + len);
    if lane == Lane::Alert {
        plaintext.resize(bucket(4 + len), 0);
    }
    plaintext
}

fn bucket(len: usize) -> usize {
    let [.., largest] = ALERT_BUCKETS;
    ALERT_BUCKETS
        .into_iter()
        .find(|bucket| len <= *bucket)
        .unwrap_or_else(|| len.next_multiple_of(largest))
}

/// Reads exactly `count` entries back.
pub(crate) fn decode(plaintext: &[u8], count: usize) -> Result<Vec<SaltedEntry>, SegmentError> {
    let unreadable = || SegmentError::Unreadable;
    let (len, rest) = plaintext.split_first_chunk::<4>().ok_or_else(unreadable)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| unreadable())?;
    let (frame, padding) = rest.split_at_checked(len).ok_or_else(unreadable)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(unreadable());
    }
    if Decompressor::upper_bound(frame).is_some_and(|size| size > BODY_BYTES_MAX) {
        return Err(SegmentError::TooLarge);
    }
    // The frame may lie about its size: what it yields is bounded all the same.
    let body = DECOMPRESSOR
        .with_borrow_mut(|zstd| zstd.decompress(frame, BODY_BYTES_MAX))
        .map_err(|_| unreadable())?;
    split(body.into(), count)
}

/// Takes the entries off one by one: decoded as one message, 4 MiB of empty entries would become
/// 160 MB of vector before they could be counted.
fn split(mut body: Bytes, count: usize) -> Result<Vec<SaltedEntry>, SegmentError> {
    let mut entries = Vec::with_capacity(count);
    while let Some(&key) = body.first() {
        if key != ENTRIES_KEY {
            return Err(SegmentError::Unreadable);
        }
        if entries.len() == count {
            return Err(SegmentError::CountWrong);
        }
        let _key = body.split_to(1);
        let len =
            prost::decode_length_delimiter(&mut body).map_err(|_| SegmentError::Unreadable)?;
        if len > body.len() {
            return Err(SegmentError::Unreadable);
        }
        let pb::SaltedEntry { salt, entry } =
            pb::SaltedEntry::decode(body.split_to(len)).map_err(|_| SegmentError::Unreadable)?;
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(SegmentError::TooLarge);
        }
        let salt = salt.as_ref().try_into().map_err(|_| SegmentError::Unreadable)?;
        entries.push(SaltedEntry { salt, entry });
    }
    if entries.len() == count { Ok(entries) } else { Err(SegmentError::CountWrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u8, len: usize) -> Vec<SaltedEntry> {
        (0..count).map(|i| SaltedEntry { salt: [i; 16], entry: vec![i; len].into() }).collect()
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        for (count, len) in [(1, 0), (1, ENTRY_BYTES_MAX), (3, 200)] {
            let entries = entries(count, len);
            let plaintext = encode(&entries, Lane::Routine);
            assert_eq!(decode(&plaintext, usize::from(count)).unwrap(), entries);
        }
    }

    #[test]
    fn an_alert_has_one_of_few_sizes() {
        for (len, padded) in [
            (0, 1 << 10),
            (1 << 10, 1 << 10),
            ((1 << 10) + 1, 4 << 10),
            (16 << 10, 16 << 10),
            (64 << 10, 64 << 10),
            ((64 << 10) + 1, 128 << 10),
            (129 << 10, 192 << 10),
        ] {
            assert_eq!(bucket(len), padded, "{len}");
        }
        assert_eq!(encode(&entries(1, 300), Lane::Alert).len(), 1 << 10);
        assert!(encode(&entries(1, 300), Lane::Routine).len() < 100);
        assert_eq!(decode(&encode(&entries(2, 9), Lane::Alert), 2).unwrap(), entries(2, 9));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let bomb = frame(&vec![0; 64 << 20], Lane::Bulk);
        assert!(bomb.len() < 100_000);
        assert_eq!(decode(&bomb, 1), Err(SegmentError::TooLarge));
    }

    #[test]
    fn a_bomb_that_hides_its_size_is_refused_at_the_bound() {
        let mut stream = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 64 << 20), &mut stream).unwrap();
        let bomb = stream.finish().unwrap();
        let mut plaintext = u32::try_from(bomb.len()).unwrap().to_be_bytes().to_vec();
        plaintext.extend_from_slice(&bomb);
        assert_eq!(decode(&plaintext, 1), Err(SegmentError::Unreadable));
    }

    #[test]
    fn a_body_holds_as_many_entries_as_its_prefix_says() {
        let plaintext = encode(&entries(3, 10), Lane::Routine);
        assert_eq!(decode(&plaintext, 2), Err(SegmentError::CountWrong));
        assert_eq!(decode(&plaintext, 4), Err(SegmentError::CountWrong));
        let empties = frame(&[ENTRIES_KEY, 0].repeat(BODY_BYTES_MAX / 2), Lane::Routine);
        assert_eq!(decode(&empties, 512), Err(SegmentError::Unreadable));
    }

    #[test]
    fn padding_carries_nothing() {
        let mut plaintext = encode(&entries(1, 10), Lane::Alert);
        *plaintext.last_mut().unwrap() = 1;
        assert_eq!(decode(&plaintext, 1), Err(SegmentError::Unreadable));
    }

    #[test]
    fn a_damaged_body_is_refused_without_panic() {
        let plaintext = encode(&entries(2, 40), Lane::Routine);
        for len in 0..plaintext.len() {
            assert!(decode(&plaintext[..len], 2).is_err(), "{len}");
        }
        for body in [&[0x12, 0][..], &[0x0a], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x0a, 9, 0]]
        {
            assert_eq!(decode(&frame(body, Lane::Bulk), 1), Err(SegmentError::Unreadable));
        }
    }

    #[test]
    fn an_entry_over_its_limit_is_refused() {
        let plaintext = encode(&entries(1, ENTRY_BYTES_MAX + 1), Lane::Bulk);
        assert_eq!(decode(&plaintext, 1), Err(SegmentError::TooLarge));
    }
}
