//! How the file of a store came to be what it is: each step once, in this order.

use crate::sqlite::Migration;

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
];
