//! Messages of which parts are encoded already: put together without being taken apart.

use bytes::{BufMut as _, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

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
