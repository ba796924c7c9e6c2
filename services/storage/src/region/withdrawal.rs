//! What is left of a neighbour's views when they are taken back or erased: their places in the chain.

use super::InboxState;
use crate::sqlite::int;
use bytes::Bytes;
use domain::kernel::{AgreementId, RecordId, RegionId};
use domain::stream::StreamId;
use rusqlite::{Connection, OptionalExtension as _};

/// Takes the content out of the views that an agreement has shown of a record, where it has taken it back since;
/// tells whether there were any. The digest goes on counting them, and the chain leads over their commitments.
pub(super) fn empty(
    conn: &Connection,
    birth_region: &RegionId,
    record: RecordId,
    agreement: AgreementId,
) -> rusqlite::Result<bool> {
    let mut found = conn.prepare_cached(
        "SELECT v.feed_seq, v.withdrawn AND v.current = 1, v.withdrawn, v.salt, v.entry, v.encoded, i.stream_id
         FROM view v JOIN inbox i ON i.inbox_no = v.inbox_no WHERE v.record_id = ?1 AND v.birth_region = ?2",
    )?;
    let rows: Vec<_> = found
        .query_map((record.as_bytes().as_slice(), birth_region.as_str()), |row| {
            let (salt, entry): (Option<[u8; 16]>, Option<Vec<u8>>) = (row.get(3)?, row.get(4)?);
            let (encoded, stream): (Vec<u8>, Vec<u8>) = (row.get(5)?, row.get(6)?);
            let of = StreamId::from_bytes(&stream).map(|stream| stream.agreement);
            let (seq, gone, withdrawn) = (row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?);
            Ok((of, gone, withdrawn, (seq, salt, entry.map(Bytes::from), Bytes::from(encoded))))
        })?
        .collect::<Result<_, _>>()?;
    let of = |row: &&(Option<AgreementId>, bool, bool, _)| row.0 == Some(agreement);
    if !rows.iter().filter(of).any(|(_, gone, ..)| *gone) {
        return Ok(false);
    }
    let views = rows.iter().filter(of).filter(|(_, _, withdrawn, (.., encoded))| {
        // What is empty already need not be settled again.
        !withdrawn && !encoded.is_empty()
    });
    let mut emptied = false;
    for (.., (feed_seq, salt, entry, encoded)) in views {
        // What came before salts were kept leaves nothing by which its chain could be followed anyway.
        let entry = entry.clone().or_else(|| seal::entry::of_sent(encoded.clone()));
        let commitment =
            salt.zip(entry).map(|(salt, entry)| seal::chain::commitment(&salt, &entry));
        conn.prepare_cached(
            "UPDATE view SET current = 0, encoded = x'', salt = ?2, entry = ?3 WHERE feed_seq = ?1",
        )?
        .execute((
            feed_seq,
            commitment.map(|_| seal::chain::ERASED.as_slice()),
            commitment.as_ref().map(<[u8; 32]>::as_slice),
        ))?;
        emptied = true;
    }
    Ok(emptied)
}

/// Leaves of a record's entry what its chain needs. One that came without its content, or is of another record,
/// stays as it is, and so does one whose commitment is neither known nor named. Tells whether it went.
pub(super) fn erase(
    conn: &Connection,
    inbox: &mut InboxState,
    record: RecordId,
    seq: u64,
    named: Option<&[u8; 32]>,
) -> rusqlite::Result<bool> {
    let place = (record.as_bytes().as_slice(), inbox.number, int(seq));
    let held = conn
        .prepare_cached(
            "SELECT salt, entry, encoded FROM view WHERE record_id = ?1 AND inbox_no = ?2 AND seq = ?3
             UNION ALL SELECT salt, entry, NULL FROM parked
             WHERE instr(entry, ?1) > 0 AND inbox_no = ?2 AND seq = ?3
             UNION ALL SELECT salt, entry, NULL FROM control
             WHERE instr(entry, ?1) > 0 AND inbox_no = ?2 AND seq = ?3",
        )?
        .query_row(place, |row| {
            let (entry, encoded): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.get(1)?, row.get(2)?);
            Ok((row.get::<_, Option<[u8; 16]>>(0)?, entry, encoded))
        })
        .optional()?;
    let Some((salt, entry, encoded)) = held else { return Ok(false) };
    let entry = entry.or_else(|| Some(seal::entry::of_sent(encoded?.into())?.into()));
    // That of what is held, whatever the origin names: the chain leads over it.
    let commitment = salt.zip(entry).map(|(salt, entry)| seal::chain::commitment(&salt, &entry));
    let Some(commitment) = commitment.as_ref().or(named) else { return Ok(false) };
    conn.prepare_cached("DELETE FROM view WHERE record_id = ?1 AND inbox_no = ?2 AND seq = ?3")?
        .execute(place)?;
    let parked = conn
        .prepare_cached("DELETE FROM parked WHERE inbox_no = ?1 AND seq = ?2")?
        .execute((inbox.number, int(seq)))?;
    inbox.parked_count = inbox.parked_count.saturating_sub(parked as u64);
    conn.prepare_cached(
        "INSERT INTO control (inbox_no, seq, salt, entry) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (inbox_no, seq) DO UPDATE SET salt = excluded.salt, entry = excluded.entry",
    )?
    .execute((
        inbox.number,
        int(seq),
        seal::chain::ERASED.as_slice(),
        commitment.as_slice(),
    ))?;
    Ok(true)
}
