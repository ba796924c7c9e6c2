//! Phones and desks, and the codes they are enrolled with.

use super::Store;
use crate::{OpenError, ReadError};
use domain::kernel::{DeviceId, Role, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sqlx::Row as _;
use std::collections::HashMap;
use std::path::Path;
use std::sync::PoisonError;

/// An enrolled phone or desk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its id.
    pub device_id: DeviceId,
    /// What it may do.
    pub role: Role,
    /// Code of the unit it belongs to.
    pub unit: String,
    /// P-256, SEC1 uncompressed.
    pub public_key: Vec<u8>,
    /// End of its certificate.
    pub expires_at: Timestamp,
    /// When it was revoked; `None` while it may work.
    pub revoked_at: Option<Timestamp>,
}

/// A device that may no longer work: what its certificate is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedDevice {
    /// Its id.
    pub device_id: DeviceId,
    /// P-256, SEC1 uncompressed.
    pub public_key: Vec<u8>,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
}

/// A code that a phone can be enrolled with, once.
#[derive(Clone, Debug)]
pub struct EnrolmentCode {
    /// SHA-256 of the code.
    pub code_sha256: [u8; 32],
    /// Role the device will have.
    pub role: Role,
    /// Unit it will belong to.
    pub unit: String,
    /// Good until.
    pub expires_at: Timestamp,
}

/// A phone with a code.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// SHA-256 of the code it showed.
    pub code_sha256: [u8; 32],
    /// The id it gets.
    pub device_id: DeviceId,
    /// P-256, SEC1 uncompressed.
    pub public_key: Vec<u8>,
    /// Make and model.
    pub model: String,
    /// End of the certificate it gets.
    pub expires_at: Timestamp,
    /// The region's clock.
    pub now: Timestamp,
}

/// What became of an enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrolVerdict {
    /// It is a device now, with this role.
    Enrolled(Role),
    /// The code is unknown, used or too old.
    CodeInvalid,
}

const DEVICE: &str = "SELECT device_id, role, unit, public_key, expires_at, revoked_at FROM device WHERE device_id = $1";

const REVOKED: &str = "SELECT device_id, public_key, enrolled_at FROM device WHERE revoked_at IS NOT NULL ORDER BY device_id";

/// Every statement the readers use here; a test prepares each.
#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[DEVICE, REVOKED];

/// Devices that were asked for: each push asks for one, and a read costs more than all else in it.
#[derive(Debug, Default)]
pub(super) struct Devices {
    rows: HashMap<DeviceId, DeviceRow>,
    /// Counts revocations, so that a row read before one is not kept after it.
    revocations: u64,
}

/// Devices that are remembered; a region has a few hundred.
const DEVICES_KEPT_MAX: usize = 4_096;

impl Devices {
    /// A revocation is on disk.
    pub(super) fn revoked(&mut self, device: DeviceId) {
        self.rows.remove(&device);
        self.revocations += 1;
    }

    fn keep(&mut self, row: &DeviceRow, revocations: u64) {
        if self.revocations != revocations {
            return;
        }
        if self.rows.len() >= DEVICES_KEPT_MAX {
            self.rows.clear();
        }
        self.rows.insert(row.device_id, row.clone());
    }
}

impl Store {
    /// A device of this region.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.device.find", level = "debug", skip_all)]
    pub async fn find_device(&self, device: DeviceId) -> Result<Option<DeviceRow>, ReadError> {
        // Each change leaves it whole.
        let devices = || self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let revocations = {
            let devices = devices();
            if let Some(row) = devices.rows.get(&device) {
                return Ok(Some(row.clone()));
            }
            devices.revocations
        };
        let found = self.read_device(device).await?;
        if let Some(row) = &found {
            devices().keep(row, revocations);
        }
        Ok(found)
    }

    async fn read_device(&self, device: DeviceId) -> Result<Option<DeviceRow>, ReadError> {
        let row = sqlx::query(DEVICE)
            .bind(device.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| {
            let role = Role::try_from(row.try_get::<i64, _>(1)?)
                .map_err(|_| ReadError::Inconsistent("device.role"))?;
            Ok(DeviceRow {
                device_id: device,
                role,
                unit: row.try_get(2)?,
                public_key: row.try_get(3)?,
                expires_at: Timestamp::from_micros(row.try_get(4)?),
                revoked_at: row.try_get::<Option<i64>, _>(5)?.map(Timestamp::from_micros),
            })
        })
        .transpose()
    }
}

impl Store {
    /// All devices that were revoked, by id. Those that a program beside this one revoked are remembered
    /// as good until this is asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    #[tracing::instrument(name = "db.revoked_devices.list", level = "debug", skip_all)]
    pub async fn list_revoked_devices(&self) -> Result<Vec<RevokedDevice>, ReadError> {
        let rows = sqlx::query(REVOKED).fetch_all(&self.readers).await?;
        let revoked = rows.iter().map(|row| {
            let id: Vec<u8> = row.try_get(0)?;
            Ok(RevokedDevice {
                device_id: DeviceId::from_slice(&id)
                    .ok_or(ReadError::Inconsistent("device.device_id"))?,
                public_key: row.try_get(1)?,
                enrolled_at: Timestamp::from_micros(row.try_get(2)?),
            })
        });
        let revoked: Vec<RevokedDevice> = revoked.collect::<Result<_, ReadError>>()?;
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        for RevokedDevice { device_id, .. } in &revoked {
            if devices.rows.get(device_id).is_some_and(|row| row.revoked_at.is_none()) {
                devices.revoked(*device_id);
            }
        }
        drop(devices);
        Ok(revoked)
    }
}

/// Revokes a device in a store that a server may be working on at the same time, which sees it within a
/// second; tells whether there was one to revoke.
///
/// # Errors
/// When there is no store at `path`, or it is busy for longer than five seconds.
pub fn revoke_device(path: &Path, device: DeviceId, now: Timestamp) -> Result<bool, OpenError> {
    Ok(revoke(&beside(path)?, device, now)?)
}

fn beside(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    Ok(conn)
}

/// Keeps an enrolment code in a store that a server may be working on at the same time.
///
/// # Errors
/// When there is no store at `path`, or it is busy for longer than five seconds.
pub fn issue_code(path: &Path, code: &EnrolmentCode) -> Result<(), OpenError> {
    insert_code(&beside(path)?, code)?;
    Ok(())
}

pub(super) fn insert_code(conn: &Connection, code: &EnrolmentCode) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO enrolment_code (code_sha256, role, unit, expires_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((
        code.code_sha256.as_slice(),
        code.role.code(),
        &code.unit,
        code.expires_at.micros(),
    ))?;
    Ok(())
}

pub(super) fn enrol(conn: &Connection, enrolment: &Enrolment) -> rusqlite::Result<EnrolVerdict> {
    let found: Option<(i64, String)> = conn
        .prepare_cached(
            "UPDATE enrolment_code SET device_id = ?2 WHERE code_sha256 = ?1 AND device_id IS NULL AND expires_at > ?3
             RETURNING role, unit",
        )?
        .query_row(
            (enrolment.code_sha256.as_slice(), enrolment.device_id.as_bytes().as_slice(), enrolment.now.micros()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((role, unit)) = found else { return Ok(EnrolVerdict::CodeInvalid) };
    let Ok(known) = Role::try_from(role) else { return Ok(EnrolVerdict::CodeInvalid) };
    conn.prepare_cached(
        "INSERT INTO device (device_id, role, unit, public_key, model, enrolled_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        enrolment.device_id.as_bytes().as_slice(),
        role,
        unit,
        &enrolment.public_key,
        &enrolment.model,
        enrolment.now.micros(),
        enrolment.expires_at.micros(),
    ))?;
    Ok(EnrolVerdict::Enrolled(known))
}

pub(super) fn revoke(
    conn: &Connection,
    device: DeviceId,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let changed = conn
        .prepare_cached(
            "UPDATE device SET revoked_at = ?2 WHERE device_id = ?1 AND revoked_at IS NULL",
        )?
        .execute((device.as_bytes().as_slice(), now.micros()))?;
    Ok(changed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_read_before_a_revocation_is_not_kept() {
        let row = |byte: u8| DeviceRow {
            device_id: DeviceId::from_slice(&[byte; 16]).unwrap(),
            role: Role::Patroller,
            unit: String::new(),
            public_key: Vec::new(),
            expires_at: Timestamp::from_micros(0),
            revoked_at: None,
        };
        let (one, other) = (row(0x77), row(0x78));
        let mut devices = Devices::default();
        devices.keep(&one, 0);
        assert!(devices.rows.contains_key(&one.device_id));
        devices.revoked(one.device_id);
        assert!(devices.rows.is_empty());
        devices.keep(&other, 0);
        assert!(devices.rows.is_empty());
        devices.keep(&other, 1);
        assert_eq!(devices.rows.len(), 1);
    }
}
