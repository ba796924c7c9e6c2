//! Whole records.

use super::{Door, Path, Rules, Violations, body, kernel};
use crate::kernel::v1 as pb;
use domain::record::Record;

/// The record as phones and officers of its region read it.
pub fn encode(record: &Record) -> pb::Record {
    // The device stays behind: the wire has no field for it.
    let Record { meta, body, device: _ } = record;
    pb::Record { meta: Some(meta.into()), payload: body::encode(body) }
}

/// Reads a record of our own region.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode(record: pb::Record) -> Result<Record, Violations> {
    let mut door = Door::new(Rules::Store);
    let pb::Record { meta, payload } = record;
    let at = Path::ROOT;
    let value = door
        .required(at.field("meta"), meta)
        .and_then(|meta| kernel::meta(&mut door, at.field("meta"), meta))
        .and_then(|meta| {
            let body = body::read(&mut door, at.field("payload"), meta.kind, &payload)?;
            Some(Record { meta, body, device: None })
        });
    door.finish(value)
}
