//! The checks that every noun uses, and the path that names a field in a refusal.

use super::{VIOLATIONS_MAX, Violations};
use bytes::Bytes;
use domain::kernel::{FieldViolation, SlugError, Timestamp};
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Checks the fields of one message and collects what is wrong. A check that fails gives `None`; where
/// a check gives an option of its own, the outer one says whether it passed.
#[derive(Debug)]
pub struct Door {
    rules: Rules,
    violations: Vec<FieldViolation>,
    over_limit: bool,
}

/// Whose message it is, which decides how strict the door is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// A phone's or an officer's: output-only fields are ignored (AIP-203), GCJ-02 is converted.
    Caller,
    /// Our own, read back: nothing is missing, nothing is converted.
    Store,
    /// A neighbour's view: any field of the payload may be withheld, staff references never crossed.
    View,
}

impl Door {
    /// A door that has seen no mistake yet.
    pub const fn new(rules: Rules) -> Self {
        Self { rules, violations: Vec::new(), over_limit: false }
    }

    /// Whose message it is.
    pub const fn rules(&self) -> Rules {
        self.rules
    }

    /// The value, if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Violations> {
        match value {
            Some(value) if self.violations.is_empty() => Ok(value),
            _ => Err(Violations(self.violations)),
        }
    }

    /// What was wrong so far.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.violations
    }

    /// Whether something was larger than its limit.
    pub const fn over_limit(&self) -> bool {
        self.over_limit
    }

    /// Notes a mistake.
    pub fn refuse<T>(&mut self, at: Path<'_>, description: impl Into<String>) -> Option<T> {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(FieldViolation::new(at.to_string(), description));
        }
        None
    }

    fn refuse_over<T>(&mut self, at: Path<'_>, description: String) -> Option<T> {
        self.over_limit = true;
        self.refuse(at, description)
    }

    /// A name, code or address: so many bytes, no control character.
    pub fn text(
        &mut self,
        at: Path<'_>,
        value: String,
        bytes: RangeInclusive<usize>,
    ) -> Option<String> {
        self.text_without(at, value, bytes, char::is_control)
    }

    /// Free text: so many bytes, no control character but newline and tab.
    pub fn free_text(&mut self, at: Path<'_>, value: String, bytes_max: usize) -> Option<String> {
        self.text_without(at, value, 0..=bytes_max, |c| c.is_control() && c != '\n' && c != '\t')
    }

    fn text_without(
        &mut self,
        at: Path<'_>,
        value: String,
        bytes: RangeInclusive<usize>,
        banned: impl Fn(char) -> bool,
    ) -> Option<String> {
        self.size(at, value.len(), bytes)?;
        if value.chars().any(banned) {
            return self.refuse(at, "holds a control character; remove it");
        }
        Some(value)
    }

    /// An opaque reference of a member of staff; empty means none. It never leaves its region.
    pub fn staff_ref(
        &mut self,
        at: Path<'_>,
        value: String,
        bytes_max: usize,
    ) -> Option<Option<String>> {
        if self.rules == Rules::View && !value.is_empty() {
            return self.refuse(at, "names a member of staff and must not leave the region");
        }
        let value = self.text(at, value, 0..=bytes_max)?;
        Some((!value.is_empty()).then_some(value))
    }

    /// A number within its range. Not-a-number is in no range.
    pub fn number<T: PartialOrd + Copy + Default + Display>(
        &mut self,
        at: Path<'_>,
        value: T,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        if range.contains(&value) || self.may_be_withheld(value == T::default()) {
            return Some(value);
        }
        self.refuse(at, format!("must be {} to {}", range.start(), range.end()))
    }

    /// A value of a code table. Zero is never one.
    pub fn code<T: TryFrom<i32>>(&mut self, at: Path<'_>, number: i32) -> Option<T> {
        match T::try_from(number) {
            Ok(value) => Some(value),
            Err(_) if number == 0 => self.missing(at),
            Err(_) => self.refuse(at, format!("holds {number}, which is no value of its table")),
        }
    }

    /// A value of a code table, or zero for none.
    pub fn optional_code<T: TryFrom<i32>>(
        &mut self,
        at: Path<'_>,
        number: i32,
    ) -> Option<Option<T>> {
        if number == 0 { Some(None) } else { self.code(at, number).map(Some) }
    }

    /// An id of 16 bytes; `parse` is the id's `from_slice`.
    pub fn id<T>(
        &mut self,
        at: Path<'_>,
        bytes: &[u8],
        parse: fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        match parse(bytes) {
            Some(id) => Some(id),
            None if bytes.is_empty() => self.missing(at),
            None => self.refuse(at, "must be a UUIDv7 of 16 bytes"),
        }
    }

    /// An id of 16 bytes, or nothing.
    pub fn optional_id<T>(
        &mut self,
        at: Path<'_>,
        bytes: &[u8],
        parse: fn(&[u8]) -> Option<T>,
    ) -> Option<Option<T>> {
        if bytes.is_empty() { Some(None) } else { self.id(at, bytes, parse).map(Some) }
    }

    /// The slug of a region, gateway or linkage.
    pub fn slug<T: FromStr<Err = SlugError>>(&mut self, at: Path<'_>, text: &str) -> Option<T> {
        match text.parse() {
            Ok(slug) => Some(slug),
            Err(_) if text.is_empty() => self.missing(at),
            Err(_) => self.refuse(at, "must be a slug of 1 to 63 of a-z, 0-9 and -"),
        }
    }

    /// Exactly `N` bytes: a hash or a key.
    pub fn array<const N: usize>(&mut self, at: Path<'_>, bytes: &[u8]) -> Option<[u8; N]> {
        match bytes.try_into() {
            Ok(array) => Some(array),
            Err(_) => self.refuse(at, format!("must be {N} bytes")),
        }
    }

    /// Opaque bytes, so many.
    pub fn blob(
        &mut self,
        at: Path<'_>,
        bytes: Bytes,
        size: RangeInclusive<usize>,
    ) -> Option<Bytes> {
        self.size(at, bytes.len(), size)?;
        Some(bytes)
    }

    /// A message that must be there.
    pub fn required<T>(&mut self, at: Path<'_>, value: Option<T>) -> Option<T> {
        value.or_else(|| self.missing(at))
    }

    /// A message that may be absent.
    pub fn optional<W, T>(
        &mut self,
        at: Path<'_>,
        value: Option<W>,
        check: impl FnOnce(&mut Self, Path<'_>, W) -> Option<T>,
    ) -> Option<Option<T>> {
        match value {
            Some(value) => check(self, at, value).map(Some),
            None => Some(None),
        }
    }

    /// A list of so many items, each checked under its own index.
    pub fn list<W, T>(
        &mut self,
        at: Path<'_>,
        items: Vec<W>,
        count: RangeInclusive<usize>,
        mut check: impl FnMut(&mut Self, Path<'_>, W) -> Option<T>,
    ) -> Option<Vec<T>> {
        let whole = items.len();
        if !count.contains(&whole) && !self.may_be_withheld(whole == 0) {
            let say = format!("has {whole} items; send {} to {}", count.start(), count.end());
            return if whole > *count.end() {
                self.refuse_over(at, say)
            } else {
                self.refuse(at, say)
            };
        }
        let mut out = Vec::with_capacity(whole);
        for (index, item) in items.into_iter().enumerate() {
            out.extend(check(self, at.item(index), item));
        }
        (out.len() == whole).then_some(out)
    }

    /// A time that must be given.
    pub fn time(
        &mut self,
        at: Path<'_>,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Timestamp> {
        let time = self.required(at, time)?;
        match super::kernel::decode_time(time) {
            Some(time) => Some(time),
            None => self.refuse(at, "must be a time from 2000-01-01 to 9999-12-31"),
        }
    }

    /// A time that may be absent.
    pub fn optional_time(
        &mut self,
        at: Path<'_>,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Option<Timestamp>> {
        if time.is_none() { Some(None) } else { self.time(at, time).map(Some) }
    }

    /// A state that only the rules set: a caller's word is ignored and the record begins at `first`.
    pub fn output_code<T: TryFrom<i32>>(
        &mut self,
        at: Path<'_>,
        number: i32,
        first: T,
    ) -> Option<T> {
        if self.rules == Rules::Caller { Some(first) } else { self.code(at, number) }
    }

    /// A time that only the rules set: a caller's word is ignored.
    pub fn output_time(
        &mut self,
        at: Path<'_>,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Option<Timestamp>> {
        if self.rules == Rules::Caller { Some(None) } else { self.optional_time(at, time) }
    }

    /// Decodes the bytes of an embedded message.
    pub fn message<M: prost::Message + Default>(
        &mut self,
        at: Path<'_>,
        bytes: &[u8],
    ) -> Option<M> {
        match M::decode(bytes) {
            Ok(message) => Some(message),
            Err(_) => self.refuse(at, "cannot be decoded as the message it should be"),
        }
    }

    /// Whether a size lies in its range.
    pub(super) fn size(
        &mut self,
        at: Path<'_>,
        size: usize,
        range: RangeInclusive<usize>,
    ) -> Option<()> {
        if range.contains(&size) || self.may_be_withheld(size == 0) {
            return Some(());
        }
        let say = format!("has {size} bytes; send {} to {}", range.start(), range.end());
        if size > *range.end() { self.refuse_over(at, say) } else { self.refuse(at, say) }
    }

    fn missing<T>(&mut self, at: Path<'_>) -> Option<T> {
        if self.may_be_withheld(true) { None } else { self.refuse(at, "must be given") }
    }

    const fn may_be_withheld(&self, absent: bool) -> bool {
        absent && matches!(self.rules, Rules::View)
    }
}

/// The path of a field in proto names, spelled only when something is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

impl Path<'_> {
    /// The message itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Field("") };

    /// A field of the message at this path.
    pub const fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// An item of the list at this path.
    pub const fn item(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Item(index) }
    }
}

impl<'a> From<&'a str> for Path<'a> {
    fn from(prefix: &'a str) -> Self {
        Path { parent: None, step: Step::Field(prefix) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Item(index) => write!(f, "[{index}]"),
            Step::Field(name) => {
                let first = self.parent.is_none_or(|parent| parent.is_root());
                f.write_str(if first { "" } else { "." })?;
                f.write_str(name)
            }
        }
    }
}

impl Path<'_> {
    const fn is_root(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Field(name) if name.is_empty())
    }
}
