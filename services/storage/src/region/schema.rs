//! How the file of a store came to be what it is: each step once, in this order; and whose it is.

use crate::sqlite::{Migration, OpenError};
use domain::kernel::{Epoch, RegionId};
use rusqlite::{Connection, OptionalExtension as _};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        sql: include_str!("../../migrations/sqlite/region/0001_create_region_tables.sql"),
    },
    Migration {
        number: 2,
        sql: include_str!("../../migrations/sqlite/region/0002_pack_outbox_and_memory.sql"),
    },
    Migration {
        number: 3,
        sql: include_str!("../../migrations/sqlite/region/0003_keep_what_the_chain_needs.sql"),
    },
    Migration {
        number: 4,
        sql: include_str!(
            "../../migrations/sqlite/region/0004_let_agreements_not_overrule_each_other.sql"
        ),
    },
    Migration {
        number: 5,
        sql: include_str!("../../migrations/sqlite/region/0005_turn_versions.sql"),
    },
    Migration {
        number: 6,
        sql: include_str!("../../migrations/sqlite/region/0006_erase_records.sql"),
    },
    Migration {
        number: 7,
        sql: include_str!("../../migrations/sqlite/region/0007_open_epochs.sql"),
    },
    Migration {
        number: 8,
        sql: include_str!("../../migrations/sqlite/region/0008_let_entries_expire.sql"),
    },
    Migration {
        number: 9,
        sql: include_str!("../../migrations/sqlite/region/0009_find_what_expires.sql"),
    },
    Migration {
        number: 10,
        sql: include_str!("../../migrations/sqlite/region/0010_let_records_change_hands.sql"),
    },
    Migration {
        number: 11,
        sql: include_str!("../../migrations/sqlite/region/0011_cut_and_quarantine.sql"),
    },
];

/// Makes sure the file is this region's; one that is new begins in `epoch`.
pub(super) fn own(conn: &Connection, region: &RegionId, epoch: Epoch) -> Result<(), OpenError> {
    let fact = |name: &str| {
        conn.query_row("SELECT value FROM store_fact WHERE name = ?1", [name], |row| {
            row.get::<_, Vec<u8>>(0)
        })
        .optional()
    };
    let Some(found) = fact("region_id")? else {
        conn.execute(
            "INSERT INTO store_fact (name, value) VALUES ('region_id', ?1), ('epoch', ?2)",
            (region.as_str().as_bytes(), epoch.as_bytes().as_slice()),
        )?;
        return Ok(());
    };
    if found != region.as_str().as_bytes() {
        let found = String::from_utf8_lossy(&found).into_owned();
        return Err(OpenError::WrongOwner { found, wanted: region.to_string() });
    }
    let epoch = fact("epoch")?.and_then(|epoch| Epoch::from_slice(&epoch));
    epoch.map(drop).ok_or(OpenError::Inconsistent("epoch"))
}
