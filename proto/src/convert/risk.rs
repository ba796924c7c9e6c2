//! Events.

use super::kernel::{UNIT_BYTES_MAX, encode_time, point};
use super::patrol::{CATEGORY_BYTES_MAX, TEXT_BYTES_MAX, encode_optional_id};
use super::{Door, Path, Rules, Violations};
use crate::risk::v1 as pb;
use domain::kernel::RecordId;
use domain::risk::{Event, EventState};

/// Bytes of a place in words.
pub const PLACE_BYTES_MAX: usize = 256;
/// People affected.
pub const AFFECTED_COUNT_MAX: u32 = 10_000_000;

impl From<&Event> for pb::Event {
    fn from(event: &Event) -> Self {
        let Event {
            domain,
            category,
            emergency_class,
            level,
            place,
            point,
            text,
            source,
            affected_count,
            urgent,
            deadline_at,
            state,
            handling_unit,
            observation_id,
        } = event;
        Self {
            domain: domain.code(),
            category: category.clone(),
            emergency_class: emergency_class.map_or(0, |class| class.code()),
            level: level.map_or(0, |level| level.code()),
            place: place.clone(),
            point: point.as_ref().map(Into::into),
            text: text.clone(),
            source: source.code(),
            affected_count: *affected_count,
            urgent: *urgent,
            deadline_time: deadline_at.map(encode_time),
            state: state.code(),
            handling_unit: handling_unit.clone(),
            observation_id: encode_optional_id(*observation_id),
        }
    }
}

/// Checks an event that a caller reports; `path` is where it lies in the caller's message.
///
/// # Errors
/// Everything that is wrong with it.
pub fn decode<'a>(event: pb::Event, path: impl Into<Path<'a>>) -> Result<Event, Violations> {
    let mut door = Door::new(Rules::Caller);
    let value = self::event(&mut door, path.into(), event);
    door.finish(value)
}

pub(super) fn event(door: &mut Door, at: Path<'_>, event: pb::Event) -> Option<Event> {
    let pb::Event {
        domain,
        category,
        emergency_class,
        level,
        place,
        point,
        text,
        source,
        affected_count,
        urgent,
        deadline_time,
        state,
        handling_unit,
        observation_id,
    } = event;
    let domain = door.code(at.field("domain"), domain);
    let category = door.text(at.field("category"), category, 1..=CATEGORY_BYTES_MAX);
    let emergency_class = door.optional_code(at.field("emergency_class"), emergency_class);
    let level = door.optional_code(at.field("level"), level);
    let place = door.free_text(at.field("place"), place, PLACE_BYTES_MAX);
    let point = door.optional(at.field("point"), point, self::point);
    let text = door.free_text(at.field("text"), text, TEXT_BYTES_MAX);
    let source = door.code(at.field("source"), source);
    let affected_count =
        door.number(at.field("affected_count"), affected_count, 0..=AFFECTED_COUNT_MAX);
    let deadline_at = door.optional_time(at.field("deadline_time"), deadline_time);
    let state = door.output_code(at.field("state"), state, EventState::Reported);
    let handling_unit = door.text(at.field("handling_unit"), handling_unit, 0..=UNIT_BYTES_MAX);
    let observation_id =
        door.optional_id(at.field("observation_id"), &observation_id, RecordId::from_slice);
    Some(Event {
        domain: domain?,
        category: category?,
        emergency_class: emergency_class?,
        level: level?,
        place: place?,
        point: point?,
        text: text?,
        source: source?,
        affected_count: affected_count?,
        urgent,
        deadline_at: deadline_at?,
        state: state?,
        handling_unit: handling_unit?,
        observation_id: observation_id?,
    })
}
