//! Goal: what passes the door comes back as it was, and every field is refused when it is wrong. Method:
//! round trips of generated values; for each message a sound one with one field spoilt at a time, and a
//! look at the descriptor that no field was forgotten.

mod refusals;
mod refusals_signed;
mod round_trips;
mod samples;
mod views;

use super::{Door, Path, Rules, Violations};
use crate::kernel::v1 as pb;
use bytes::Bytes;
use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use prost_types::{FileDescriptorSet, Timestamp};
use std::collections::BTreeSet;
use std::fmt::Debug;

type Spoil<M> = fn(&mut M);

/// Spoils one field of a sound message at a time; the path of exactly that field must be refused. Every
/// field of the message must be spoilt, but those of which any value is right.
fn check<M: Clone + Debug, T: Debug>(
    name: &str,
    sound: &M,
    decode: impl Fn(M) -> Result<T, Violations>,
    any_is_right: &[&str],
    cases: &[(&str, Spoil<M>)],
) {
    decode(sound.clone()).expect("the sound message passes");
    for (path, spoil) in cases {
        let mut message = sound.clone();
        spoil(&mut message);
        let refused = decode(message).expect_err(path).0;
        let paths: Vec<_> = refused.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(paths, [*path], "{name}");
        let text = &refused[0].description;
        assert!((1..=512).contains(&text.len()) && !text.ends_with('.'), "{name} {path}: {text}");
    }
    let spoilt: BTreeSet<String> = cases
        .iter()
        .map(|(path, _)| path.split(['.', '[']).next().unwrap_or_default().to_owned())
        .chain(any_is_right.iter().map(|&field| field.to_owned()))
        .collect();
    assert_eq!(spoilt, fields_of(name), "each field of {name} is spoilt once");
}

/// Fields and oneofs of a message, by the descriptor.
fn fields_of(name: &str) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(crate::DESCRIPTOR).unwrap();
    let (package, short) = name.rsplit_once('.').unwrap();
    let files = set.file.into_iter().filter(|file| file.package() == package);
    let message = files
        .flat_map(|file| file.message_type)
        .find(|message| message.name() == short)
        .unwrap_or_else(|| panic!("{name} is in the contract"));
    let plain = |field: &&prost_types::FieldDescriptorProto| {
        field.oneof_index.is_none() || field.proto3_optional()
    };
    let fields = message.field.iter().filter(plain).map(|field| field.name().to_owned());
    let oneofs = message.oneof_decl.iter().map(|oneof| oneof.name().to_owned());
    fields.chain(oneofs.filter(|name| !name.starts_with('_'))).collect()
}

/// Decodes one message by a check of the door.
fn by<M, T>(
    rules: Rules,
    check: impl Fn(&mut Door, Path<'_>, M) -> Option<T>,
) -> impl Fn(M) -> Result<T, Violations> {
    move |message| {
        let mut door = Door::new(rules);
        let value = check(&mut door, Path::ROOT, message);
        door.finish(value)
    }
}

fn sample<T>(strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

fn point() -> pb::GeoPoint {
    pb::GeoPoint {
        lon: 108.7,
        lat: 29.6,
        accuracy_m: 8.0,
        datum: pb::Datum::Wgs84.into(),
        source: pb::FixSource::Gnss.into(),
        altitude_m: Some(600.0),
    }
}

fn id(last: u8) -> Bytes {
    let mut bytes = [0x80 | last; 16];
    bytes[6] = 0x70;
    Bytes::copy_from_slice(&bytes)
}

fn nil() -> Bytes {
    Bytes::from_static(&[0; 16])
}

fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

const NOW_S: i64 = 1_760_000_000;
