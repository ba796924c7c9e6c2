//! Domain-separation tags. Each hash and each signature covers its tag first, so bytes made for one
//! purpose are worth nothing for another. A tag ends with its only zero byte, so none is the
//! beginning of another.

/// Commitment `c_n` to a salted entry.
pub const COMMITMENT: &[u8] = b"wuling:commitment:v1\0";
/// Link `h_n` of a chain.
pub const LINK: &[u8] = b"wuling:link:v1\0";
/// Start `h_0` of a chain.
pub const GENESIS: &[u8] = b"wuling:genesis:v1\0";
/// Signature of a segment.
pub const SEGMENT: &[u8] = b"wuling:segment:v1\0";
/// `info` of HPKE; the party's id follows it.
pub const HPKE_INFO: &[u8] = b"wuling:hpke-info:v1\0";
/// Signed object whose body is `exchange.v1.Hello`.
pub const HELLO: &[u8] = b"wuling:hello:v1\0";
/// Signed object whose body is `exchange.v1.Head`.
pub const HEAD: &[u8] = b"wuling:head:v1\0";
/// Signed object whose body is `exchange.v1.Receipt`.
pub const RECEIPT: &[u8] = b"wuling:receipt:v1\0";
/// Signed object whose body is `agreement.v1.Agreement`.
pub const AGREEMENT: &[u8] = b"wuling:agreement:v1\0";
/// Signed object whose body is `directory.v1.Directory`.
pub const DIRECTORY: &[u8] = b"wuling:directory:v1\0";
/// Signed object whose body is `directory.v1.DelegatedDirectory`.
pub const DELEGATED_DIRECTORY: &[u8] = b"wuling:delegated-directory:v1\0";
/// Signed object whose body is `directory.v1.KeyChange`.
pub const KEY_CHANGE: &[u8] = b"wuling:key-change:v1\0";
/// Signed object by which the root key vouches for the directory key.
pub const DIRECTORY_KEY: &[u8] = b"wuling:directory-key:v1\0";
/// Signed object whose body is `directory.v1.Freshness`.
pub const FRESHNESS: &[u8] = b"wuling:freshness:v1\0";
/// Signed object whose body is `exchange.v1.Offer`.
pub const OFFER: &[u8] = b"wuling:offer:v1\0";
/// Signed object whose body is `exchange.v1.Accept`.
pub const ACCEPT: &[u8] = b"wuling:accept:v1\0";
/// Batch of a device.
pub const BATCH: &[u8] = b"wuling:batch:v1\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tag_is_the_beginning_of_another() {
        let all = [
            COMMITMENT,
            LINK,
            GENESIS,
            SEGMENT,
            HPKE_INFO,
            HELLO,
            HEAD,
            RECEIPT,
            AGREEMENT,
            DIRECTORY,
            DELEGATED_DIRECTORY,
            KEY_CHANGE,
            DIRECTORY_KEY,
            FRESHNESS,
            OFFER,
            ACCEPT,
            BATCH,
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a.iter().position(|b| *b == 0), Some(a.len() - 1));
            for (j, b) in all.iter().enumerate() {
                assert!(i == j || !b.starts_with(a));
            }
        }
    }
}
