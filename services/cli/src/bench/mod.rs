//! Measures what this machine and this program do: figures are ratios to limits taken in the same run.

mod lanes;
mod limits;
mod line;
mod load;
mod pipeline;
mod report;
mod rpc;
mod sealing;
mod sharing;
mod store;
mod world;

use anyhow::Result;
use std::path::PathBuf;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// Disk, network, bare SQLite: the denominators.
    Limits,
    /// The stores.
    Store,
    /// The phones' service without a store.
    Rpc,
    /// Segments, sealed and opened.
    Seal,
    /// What leaves, decided.
    Share,
    /// Three processes, end to end.
    Pipeline,
    /// Calls for help over a narrow line that is full.
    Lanes,
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// One line of JSON a case instead of a table.
    pub json: bool,
    /// Times each case is run; figures are medians.
    pub rounds: usize,
    /// Records of a streamed case.
    pub records: usize,
    /// Records that wait in the case `catchup`.
    pub backlog: usize,
    /// Cases of `pipeline`; empty: all.
    pub cases: Vec<String>,
    /// Where the files go, on the disk to be measured; `None`: the system's scratch folder.
    pub data: Option<PathBuf>,
}

/// Runs a suite; tells whether everything came out equal.
///
/// # Errors
/// When it cannot be run.
pub async fn run(suite: Suite, options: Options) -> Result<bool> {
    match suite {
        Suite::Limits => limits::run(&options).await,
        Suite::Store => store::run(&options).await,
        Suite::Rpc => rpc::run(&options).await,
        Suite::Seal => sealing::run(&options).await,
        Suite::Share => sharing::run(&options).await,
        Suite::Pipeline => pipeline::run(&options).await,
        Suite::Lanes => lanes::run(&options).await,
    }
}
