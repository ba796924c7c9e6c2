//! Logs: to standard error, one event a line, as text or JSON.

use serde::Deserialize;
use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// How much is logged, and in which form.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Form of a line.
    pub format: Format,
    /// What is logged, in the directives of `tracing` (`info,region=debug`).
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".to_owned() }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log filter `{filter}` cannot be read")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logs were started before.
    #[error("logs were started twice")]
    StartedTwice,
}

/// Starts logs for the whole process.
///
/// # Errors
/// When the filter cannot be read or logs were started before.
pub fn init(config: &Config) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(config.format == Format::Text && std::io::stderr().is_terminal());
    let started = match config.format {
        Format::Text => lines.try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| TelemetryError::StartedTwice)
}

/// An error and its causes on one line, `cannot start: port 7443 is taken`.
#[derive(Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = text_of(self.0);
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = text_of(error);
            // Foreign errors often repeat in their own text what their source says.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        f.write_str(&line)
    }
}

fn text_of(error: &(dyn Error + 'static)) -> String {
    // A status shows all of its source and metadata at once, in debug form.
    match error.downcast_ref::<tonic::Status>() {
        Some(status) => format!("{:?}: {}", status.code(), status.message()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Self>>);

    fn chain(steps: &[&'static str]) -> Step {
        let (first, rest) = steps.split_first().expect("a step");
        Step(first, (!rest.is_empty()).then(|| Box::new(chain(rest))))
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        for (steps, line) in [
            (&["cannot start"][..], "cannot start"),
            (&["cannot start", "port is taken"][..], "cannot start: port is taken"),
            (&["a: b: c", "b: c", "c"][..], "a: b: c"),
            (&["a", "b: c", "c", "d"][..], "a: b: c: d"),
        ] {
            assert_eq!(ErrorChain(&chain(steps)).to_string(), line);
        }
    }

    #[test]
    fn a_bad_filter_is_named() {
        let config = Config { filter: "info,=".to_owned(), ..Config::default() };
        let error = init(&config).expect_err("a bad filter");
        assert_eq!(error.to_string(), "log filter `info,=` cannot be read");
    }
}
