//! What a region server measures of its own work: what became of operations.

use crate::operations::Answer;
use domain::kernel::RegionId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Names of what can become of an operation, in the order of [`outcome`].
const OUTCOMES: [&str; 7] =
    ["applied", "duplicate", "conflict", "rejected", "held", "quarantined", "malformed"];
/// What the door refuses is no operation yet.
const MALFORMED: usize = OUTCOMES.len() - 1;

/// What one server measures. Clones share all values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    answers: Family<Answered, Counter>,
}

/// Counts what becomes of one region's operations: once a batch.
#[derive(Clone, Debug)]
pub(crate) struct Answers([Counter; OUTCOMES.len()]);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    region: String,
    outcome: &'static str,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "What became of operations";
        registry.register("operation_answers", help, metrics.answers.clone());
        metrics
    }

    /// Counters of a region.
    pub(crate) fn answers(&self, region: &RegionId) -> Answers {
        Answers(OUTCOMES.map(|outcome| {
            let answered = Answered { region: region.to_string(), outcome };
            self.answers.get_or_create_owned(&answered)
        }))
    }
}

impl Answers {
    /// Counts the answers of a batch, and what of it was no operation at all.
    pub(crate) fn count<'a>(
        &self,
        answers: impl IntoIterator<Item = &'a Answer>,
        malformed: usize,
    ) {
        let mut counts = [0; OUTCOMES.len()];
        counts[MALFORMED] = u64::try_from(malformed).unwrap_or(u64::MAX);
        for answer in answers {
            counts[outcome(answer)] += 1;
        }
        for (counter, count) in self.0.iter().zip(counts).filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }
}

const fn outcome(answer: &Answer) -> usize {
    match answer {
        Answer::Applied(_) => 0,
        Answer::Duplicate { .. } => 1,
        Answer::Conflict(_) => 2,
        Answer::Rejected(_) => 3,
        Answer::Held => 4,
        Answer::Quarantined => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_by_what_became_of_each_operation() {
        let mut registry = Registry::with_prefix("wuling");
        let metrics = Metrics::new(&mut registry);
        let answers = metrics.answers(&"a".parse().unwrap());
        answers.count(&[Answer::Held, Answer::Quarantined, Answer::Held], 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (outcome, count) in [("applied", 0), ("held", 2), ("quarantined", 1), ("malformed", 1)]
        {
            let line = format!(
                "wuling_operation_answers_total{{region=\"a\",outcome=\"{outcome}\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
}
