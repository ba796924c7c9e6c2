//! How far a long command is, for somebody who watches.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is told.
const EVERY: Duration = Duration::from_millis(200);

/// Tells on standard error how far something is, if that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    told_at: Option<Instant>,
    watched: bool,
}

impl Progress {
    /// Of something that goes on.
    pub(crate) fn of(what: &'static str) -> Self {
        Self { what, told_at: None, watched: std::io::stderr().is_terminal() }
    }

    /// So much is done, of so much where that is known.
    pub(crate) fn tell(&mut self, done: u64, of: Option<u64>) {
        if !self.watched || self.told_at.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.told_at = Some(Instant::now());
        let what = self.what;
        let mut out = std::io::stderr();
        let told = match of {
            Some(of) => {
                let percent = done.saturating_mul(100) / of.max(1);
                let filled = usize::try_from(percent / 5).unwrap_or(0).min(20);
                let bar = "#".repeat(filled) + &"-".repeat(20 - filled);
                write!(out, "\r{what} [{bar}] {percent:3} %")
            }
            None => write!(out, "\r{what} {done}"),
        };
        // Nobody is told where nobody can be told.
        told.ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told_at.is_some() {
            writeln!(std::io::stderr()).ok();
        }
    }
}
