//! Agreement versions come into force: when their time has come, by the region's clock, the streams of the version
//! before end, and what is open is shown under the new one. It is shown again in a new epoch too.
//!
//! One task a region, woken by a new book and each second; what it had not finished when the server stopped it takes
//! up again.

use crate::hosted::Hosted;
use crate::operations::decode_record;
use crate::shares::{one, opening};
use domain::agreement::{Agreement, current};
use domain::kernel::{AgreementId, Epoch, Lane};
use domain::stream::{LastShown, Standing};
use exchange::book::{Book, SignedAgreement};
use proto::convert::view::Outgoing;
use runtime::ErrorChain;
use std::sync::Arc;
use std::time::Duration;
use storage::region::{Base, Places, RecordRow, Reshare, Turn, TurnPage};
use storage::{ReadError, WriteError};

/// How often it is looked whether the time of a version has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records shown at once: operations wait no longer than one page takes.
const RECORDS_PER_PAGE: u32 = 200;

/// Why a version is not in force yet, or what is open not yet shown; tried again.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The store cannot be read.
    #[error("the store could not be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("the store could not be written")]
    Write(#[from] WriteError),
    /// A record is not what this program wrote.
    #[error("a stored record is unreadable")]
    Unreadable,
}

/// Puts versions into force until the soft stop.
pub(crate) async fn run(region: Arc<Hosted>) {
    let mut books = region.shelf.watch();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // No arm holds state across its await.
        tokio::select! {
            () = region.tasks.soft().cancelled() => return,
            _ = books.changed() => {}
            _ = ticks.tick() => {}
        }
        let turned = async {
            begin_all(&region).await?;
            show_all(&region).await
        };
        if let Err(error) = turned.await {
            tracing::error!(region.id = %region.region, error = %ErrorChain(&error), "an agreement version is not in force yet");
        }
    }
}

/// Puts every version into force whose time has come: what is decided from now on is decided under it.
pub(crate) async fn begin_all(region: &Hosted) -> Result<(), TurnError> {
    let book = region.book();
    for id in book.agreement_ids() {
        let Some(signed) = due(region, &book, id) else { continue };
        let version = signed.agreement.version;
        if region.store.version_in_force(id) != Some(version) {
            begin(region, &book, signed).await?;
            tracing::info!(region.id = %region.region, agreement.id = %id, agreement.version = version, "an agreement version is in force");
        }
    }
    Ok(())
}

/// Shows what is open under versions that have come into force.
async fn show_all(region: &Hosted) -> Result<(), TurnError> {
    let book = region.book();
    for signed in region.in_force(&book) {
        let Agreement { agreement_id, version, .. } = signed.agreement;
        loop {
            // Before the places are read: those of an epoch that was left are of no use in the next.
            let epoch = region.store.epoch();
            let Some(places) = region.store.find_turn(agreement_id, version).await? else { break };
            if region.tasks.soft().is_cancelled() {
                return Ok(());
            }
            show(region, &book, signed, (epoch, places)).await?;
        }
    }
    Ok(())
}

/// The version that counts now. One that is in force stays so, whatever becomes of the clock.
fn due<'a>(region: &Hosted, book: &'a Book, id: AgreementId) -> Option<&'a SignedAgreement> {
    let version = current(book.versions(id), region.now()).map(|version| version.version);
    let version = version.max(region.store.version_in_force(id))?;
    book.agreements.get(&(id, version))
}

async fn begin(region: &Hosted, book: &Book, signed: &SignedAgreement) -> Result<(), TurnError> {
    let agreement = &signed.agreement;
    let before = region.store.version_in_force(agreement.agreement_id);
    let before = before.and_then(|version| book.agreement(agreement.agreement_id, version));
    let shows_open = before.is_none_or(|before| agreement.shows_otherwise(before));
    let turn = Turn {
        agreement: agreement.agreement_id,
        version: agreement.version,
        openings: Lane::ALL.iter().map(|_| opening(region, signed)).collect(),
        writes: agreement.has_party(&region.region),
        shows_open: shows_open && agreement.has_party(&region.region),
        expires_at: agreement.ended_at,
        now: region.now(),
    };
    Ok(region.store.turn(turn).await?)
}

/// Shows one page of what is open.
async fn show(
    region: &Hosted,
    book: &Book,
    signed: &SignedAgreement,
    (epoch, places): (Epoch, Places),
) -> Result<(), TurnError> {
    let Agreement { agreement_id: agreement, version, .. } = signed.agreement;
    let now = region.now();
    let rows = region.store.list_records(places, RECORDS_PER_PAGE).await?;
    let after_seq = rows.last().map_or(places.through, |(feed_seq, _)| *feed_seq);
    let reshare = |(feed_seq, row): (u64, RecordRow)| -> Result<Option<Reshare>, TurnError> {
        let record = decode_record(&row.encoded).ok_or(TurnError::Unreadable)?;
        let (outgoing, mut shown) = (Outgoing::new(&record), row.shown.clone());
        if let Some(last) = shown.get(agreement).filter(|_| feed_seq >= places.again_from).copied()
        {
            // Some party may not have heard that it is over or was taken back.
            shown.set(agreement, LastShown { standing: Standing::Shown, ..last });
        }
        let shares = one(region, book, signed, &record, &outgoing, &mut shown, now);
        let base = Base { revision: row.revision, shown: row.shown };
        Ok((!shares.is_empty()).then_some(Reshare {
            record_id: row.record_id,
            base,
            shown,
            shares,
        }))
    };
    let records = rows.into_iter().map(reshare).collect::<Result<Vec<_>, _>>()?;
    let records = records.into_iter().flatten().collect();
    let page = TurnPage { agreement, version, epoch, records, after_seq, now };
    Ok(region.store.turn_page(page).await?)
}
