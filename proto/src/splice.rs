//! Messages of which parts are encoded already: put together without being taken apart.

use bytes::{BufMut as _, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, encode_key, encode_varint, encoded_len_varint, key_len,
    skip_field,
};
use std::collections::HashSet;

/// A message of length-delimited `parts`, each a field's number and its encoded value, and of the fields of
/// `rest`; itself a field of another message where `within` gives its number. A part without bytes is left
/// out.
///
/// # Panics
/// Never: a vector takes what does not fit yet.
pub fn splice(within: Option<u32>, parts: &[(u32, &[u8])], rest: &impl Message) -> Bytes {
    let parts = parts.iter().filter(|(_, part)| !part.is_empty());
    let len =
        parts.clone().map(|(tag, part)| head_len(*tag, part.len()) + part.len()).sum::<usize>()
            + rest.encoded_len();
    let mut out = Vec::with_capacity(within.map_or(0, |tag| head_len(tag, len)) + len);
    if let Some(tag) = within {
        put_head(tag, len, &mut out);
    }
    for (tag, part) in parts {
        put_head(*tag, part.len(), &mut out);
        out.put_slice(part);
    }
    rest.encode(&mut out).expect("a vector grows");
    out.into()
}

/// A message with the fields of another that it has not, both encoded; `None` where one is no message.
pub fn fill(base: &[u8], other: &[u8]) -> Option<Bytes> {
    let has = numbers(base)?;
    let mut out = base.to_vec();
    let mut rest = other;
    while !rest.is_empty() {
        let before = rest;
        let number = skip(&mut rest)?;
        if !has.contains(&number) {
            out.extend_from_slice(before.get(..before.len() - rest.len())?);
        }
    }
    Some(out.into())
}

fn numbers(mut message: &[u8]) -> Option<HashSet<u32>> {
    let mut numbers = HashSet::new();
    while !message.is_empty() {
        numbers.insert(skip(&mut message)?);
    }
    Some(numbers)
}

/// Goes over one field; gives its number.
fn skip(rest: &mut &[u8]) -> Option<u32> {
    let (number, wire_type) = decode_key(rest).ok()?;
    skip_field(wire_type, number, rest, DecodeContext::default()).ok()?;
    Some(number)
}

/// What stands before a value of so many bytes: its field's number and its length.
pub fn head(tag: u32, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(head_len(tag, len));
    put_head(tag, len, &mut out);
    out
}

fn head_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64)
}

fn put_head(tag: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::risk::v1::Event;

    #[test]
    fn what_one_lacks_the_other_gives_and_nothing_else() {
        let base = Event { place: "黑溪桥头".to_owned(), urgent: true, ..Event::default() };
        let other =
            Event { place: "别处".to_owned(), text: "落石".to_owned(), ..Event::default() };
        let filled = fill(&base.encode_to_vec(), &other.encode_to_vec()).unwrap();
        let expected = Event { text: "落石".to_owned(), ..base.clone() };
        assert_eq!(Event::decode(filled).unwrap(), expected);
        assert_eq!(fill(&base.encode_to_vec(), &[]).unwrap(), base.encode_to_vec());
        for broken in [&[0x0a, 0x05, 0x00][..], &[0xff; 12]] {
            assert_eq!(fill(&base.encode_to_vec(), broken), None);
            assert_eq!(fill(broken, &base.encode_to_vec()), None);
        }
    }
}
