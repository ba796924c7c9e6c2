//! Logs: to standard error, one event a line, as text or JSON. Traces: to a collector, where one is named.

use crate::config::Check;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Longest wait for the collector, at an export and at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Crates whose spans are exported: those of ours that have any.
const TRACED: [&str; 5] = ["runtime", "storage", "exchange", "region", "gateway"];

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

/// Where traces go (OTLP over gRPC), and how many.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// `http://host:port` of a collector beside the server; the line is not encrypted.
    pub endpoint: String,
    /// The share of calls that is traced, 0 to 1.
    #[serde(default = "every_call")]
    pub sampled_share: f64,
}

impl Otlp {
    /// Notes what cannot be right.
    pub fn check(&self, check: &mut Check) {
        if !self.endpoint.starts_with("http://") {
            check.mistake("otlp.endpoint", "begins with http://, as http://127.0.0.1:4317 does");
        }
        if !(0.0..=1.0).contains(&self.sampled_share) {
            let what = format_args!("{} is not within 0 to 1", self.sampled_share);
            check.mistake("otlp.sampled_share", what);
        }
    }
}

const fn every_call() -> f64 {
    1.0
}

/// Traces that may not have gone out yet; [`Traces::flush`] ends them.
#[derive(Debug, Default)]
#[must_use = "traces that are not flushed are lost"]
pub struct Traces(Option<SdkTracerProvider>);

/// Why logs or traces could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The collector's address cannot be used.
    #[error("traces cannot go to `{endpoint}`")]
    Otlp {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        source: ExporterBuildError,
    },
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

/// Starts logs and, where `otlp` says so, traces for the whole process. Traces need a tokio runtime around
/// them; `service` is the name under which a collector shows them.
///
/// # Errors
/// When the filter or the collector's address cannot be used, or logs were started before.
pub fn init(
    config: &Config,
    service: &'static str,
    otlp: Option<&Otlp>,
) -> Result<Traces, TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    let Some(otlp) = otlp else {
        let started = Registry::default().with(filter).with(lines(config)).try_init();
        return started.map(|()| Traces(None)).map_err(|_| TelemetryError::StartedTwice);
    };
    let provider = provider(service, otlp)?;
    // Spans alone: an event's text stays in the log. Where the code lies says nothing to an operator.
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("wuling"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_traced));
    let lines = lines(config).with_filter(filter);
    let started = Registry::default().with(lines).with(spans).try_init();
    started.map(|()| Traces(Some(provider))).map_err(|_| TelemetryError::StartedTwice)
}

fn lines<S>(config: &Config) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(config.format == Format::Text && std::io::stderr().is_terminal());
    match config.format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn provider(service: &'static str, otlp: &Otlp) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&otlp.endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TelemetryError::Otlp { endpoint: otlp.endpoint.clone(), source })?;
    let sampler = Sampler::TraceIdRatioBased(otlp.sampled_share);
    // Empty: what the machine's environment says does not name a service of ours.
    let resource = Resource::builder_empty().with_service_name(service).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource)
        .build())
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    let of = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_span() && *metadata.level() <= tracing::Level::DEBUG && TRACED.contains(&of)
}

impl Traces {
    /// Sends what waits and ends. Blocks for a few seconds at most, also when no collector is there.
    pub fn flush(self) {
        if let Some(Err(error)) =
            self.0.map(|provider| provider.shutdown_with_timeout(EXPORT_TIMEOUT))
        {
            tracing::warn!(error = %ErrorChain(&error), "the last traces were lost");
        }
    }
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
        let error = init(&config, "test", None).expect_err("a bad filter");
        assert_eq!(error.to_string(), "log filter `info,=` cannot be read");
    }
}
