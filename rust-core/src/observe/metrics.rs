//! The figures in the format of Prometheus: one registry for each client, no label that grows with the keys.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::observe::figures::{ANSWERS, CODES, LOSSES, OPERATIONS, OUTCOMES};
use crate::observe::histogram::{Histogram, Reading};
use crate::observe::observer::Observer;
use crate::observe::stats::Gauges;

/// The source of one text.
#[derive(Debug)]
struct Scrape {
    observer: Arc<Observer>,
    gauges: Gauges,
}

impl Observer {
    /// The figures in the text format of `OpenMetrics`, which Prometheus reads.
    pub(crate) fn metrics(self: &Arc<Self>, gauges: Gauges) -> String {
        let mut registry = Registry::with_prefix("dlock");
        registry.register_collector(Box::new(Scrape { observer: self.clone(), gauges }));
        let mut text = String::new();
        if text::encode(&mut text, &registry).is_err() {
            // Encoding fails only if the writer does, and a string never does.
            let _ = text.write_str("# EOF\n");
        }
        text
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let figures = &self.observer.figures;
        let waiting = figures.waiting.load(Ordering::Relaxed);
        gauge(out, "leases_held", "Leases held now", self.gauges.held as u64)?;
        gauge(out, "leases_at_risk", "Leases that are lost unless they are renewed soon", self.gauges.at_risk as u64)?;
        gauge(out, "attempts_waiting", "Attempts to get a key that are under way", waiting)?;
        gauge(out, "leases_renewing", "Leases in renewal requests that were not answered yet", self.gauges.renewing as u64)?;
        gauge(out, "background_requests", "Requests that go on after their callers left", self.gauges.background as u64)?;
        gauge(out, "events_queued", "Events that wait for their observers", self.observer.queued() as u64)?;
        counter(out, "leases_acquired", "Leases got", &figures.acquired)?;
        counters(out, "leases_released", "Releases by how they ended", "outcome", &OUTCOMES, &figures.released)?;
        counters(out, "leases_lost", "Leases that ended without a release", "reason", &LOSSES, &figures.lost)?;
        let failures = &figures.acquire_failures;
        counters(out, "acquire_failures", "Attempts that got no lease, by the code of the error", "code", &CODES, failures)?;
        counter(out, "renewals", "Renewals that were acknowledged", &figures.renewed)?;
        counter(out, "renewal_failures", "Renewals without an answer, tried again", &figures.renewal_failures)?;
        counter(out, "events_dropped", "Events that found an observer's queue full", &figures.dropped)?;
        seconds(out, "wait", "From the call to the lease", &figures.wait)?;
        seconds(out, "hold", "From the lease to its end", &figures.hold)?;
        seconds(out, "renewal_lag", "From when a renewal was due to its acknowledgement", &figures.lag)?;
        calls(out, &figures.calls)
    }
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &AtomicU64) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, f64>(&value.load(Ordering::Relaxed), None)
}

/// All series, zeros included: a rate needs the series before its first event.
fn counters(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    words: &[&str],
    values: &[AtomicU64],
) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (word, value) in words.iter().zip(values) {
        let value = value.load(Ordering::Relaxed);
        metric.encode_family(&[(label, *word)])?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}

fn seconds(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
    let Reading { count, sum, buckets } = histogram.read();
    let mut metric = out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
}

/// An answer that never came has no series: nine operations with four answers each would be long.
fn calls(out: &mut DescriptorEncoder<'_>, calls: &[[Histogram; ANSWERS.len()]; OPERATIONS.len()]) -> fmt::Result {
    let help = "Calls to the backend, by operation and outcome";
    let mut metric = out.encode_descriptor("backend_call", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (operation, answers) in OPERATIONS.iter().zip(calls) {
        for (outcome, histogram) in ANSWERS.iter().zip(answers) {
            let Reading { count, sum, buckets } = histogram.read();
            if count > 0 {
                let labels = [("operation", *operation), ("outcome", *outcome)];
                metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)?;
            }
        }
    }
    Ok(())
}
