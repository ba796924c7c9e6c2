//! `wuling transfer`: a record's way from one owner to the next.

use super::open;
use anyhow::Result;
use clap::Subcommand;
use cli::transfer::{self, Answer};
use domain::kernel::{RecordId, RegionId};
use domain::transfer::ReturnReason;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Word {
    /// Offers an event of this region to another; until that one has decided nobody changes it
    Offer {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// The region that shall own it
        #[arg(long)]
        to: RegionId,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The record
        record: RecordId,
    },
    /// Asks for an offered record back; what the other has decided before stands
    Recall {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The offer, as `list` names it; its first digits are enough
        offer: String,
    },
    /// Becomes the owner of a record that is offered to this region
    Accept {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The offer, as `list` names it; its first digits are enough
        offer: String,
    },
    /// Does not take a record that is offered to this region
    Return {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Why: NOT_HERE, NOT_COMPETENT or INCOMPLETE
        #[arg(long, value_parser = reason)]
        reason: ReturnReason,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
        /// The offer, as `list` names it; its first digits are enough
        offer: String,
    },
    /// Lists offers by and to this region, the newest first
    List {
        /// Folder of an enrolled desk
        #[arg(long)]
        store: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
}

fn reason(word: &str) -> Result<ReturnReason, String> {
    let reason = ReturnReason::from_name(word).filter(|reason| *reason != ReturnReason::Recalled);
    reason.ok_or_else(|| "is NOT_HERE, NOT_COMPETENT or INCOMPLETE".to_owned())
}

pub(super) async fn run(word: Word) -> Result<()> {
    let (store, offer, answer, json) = match word {
        Word::Offer { store, to, json, record } => {
            return transfer::offer(&open(&store)?, record, &to, json).await;
        }
        Word::List { store, json } => return transfer::list(&open(&store)?, json).await,
        Word::Recall { store, json, offer } => (store, offer, Answer::Recall, json),
        Word::Accept { store, json, offer } => (store, offer, Answer::Accept, json),
        Word::Return { store, reason, json, offer } => (store, offer, Answer::Return(reason), json),
    };
    transfer::answer(&open(&store)?, &offer, answer, json).await
}
