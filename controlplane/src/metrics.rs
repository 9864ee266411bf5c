//! The exporter: `/metrics` for Prometheus, `/healthz` while the process serves, `/readyz` while packets are
//! forwarded. A scrape reads the workers' counters in place and stops nobody.

mod families;
mod family;
mod listener;
mod log;
mod pcp;
mod process;
mod simco;
mod subscribers;

use crate::facts::Board;
use crate::reading::Reading;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
pub use listener::Listener;

use family::{Family, Kind, Value};
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use std::sync::Arc;
use std::time::Instant;

/// Collects every family at scrape time.
#[derive(Debug)]
struct Exporter {
    board: Board,
    descriptions: Vec<Desc>,
    /// Keeps the last whole copy of each page.
    last: Mutex<Reading>,
}

impl Exporter {
    fn new(board: Board) -> prometheus::Result<Self> {
        let empty = families::all(&Reading::default(), &board.copy(), 0.0);
        let descriptions = empty.iter().map(describe).collect::<prometheus::Result<_>>()?;
        Ok(Self { board, descriptions, last: Mutex::default() })
    }
}

fn describe(family: &Family) -> prometheus::Result<Desc> {
    let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
    Desc::new(family.name.to_owned(), family.help.to_owned(), labels, std::collections::HashMap::new())
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let begin = Instant::now();
        let facts = self.board.copy();
        let mut last = self.last.lock();
        if let Some(view) = &facts.view {
            *last = Reading::take(view, Some(&last));
        }
        let families = families::all(&last, &facts, 0.0);
        let mut families: Vec<_> = families.into_iter().filter_map(proto_family).collect();
        families.extend(proto_family(families::scrape_duration(begin.elapsed().as_secs_f64())));
        families
    }
}

/// `None` without rows: a family without series has no place in the exposition.
fn proto_family(family: Family) -> Option<MetricFamily> {
    if family.rows.is_empty() {
        return None;
    }
    let mut out = MetricFamily::default();
    out.set_name(family.name.to_owned());
    out.set_help(family.help.to_owned());
    out.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    let rows = family.rows.into_iter().map(|(labels, value)| {
        let labels = family.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        match value {
            Value::Number(number) if family.kind == Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            }
            Value::Number(number) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
            Value::Histogram { buckets, sum } => {
                let mut histogram = proto::Histogram::default();
                histogram.set_sample_count(buckets.iter().map(|(_, count)| count).sum());
                histogram.set_sample_sum(sum);
                let mut below = 0;
                // The encoder adds the infinite one, and writes its bound as the format wants it.
                let finite = buckets.into_iter().filter(|(bound, _)| bound.is_finite());
                let buckets = finite.map(|(bound, count)| {
                    below += count;
                    let mut bucket = proto::Bucket::default();
                    bucket.set_upper_bound(bound);
                    bucket.set_cumulative_count(below);
                    bucket
                });
                histogram.set_bucket(buckets.collect());
                metric.set_histogram(histogram);
            }
        }
        metric
    });
    out.set_metric(rows.collect());
    Some(out)
}

/// The exporter's routes.
///
/// # Errors
/// If two families contradict each other: a defect.
pub fn router(board: Board) -> prometheus::Result<Router> {
    let registry = Registry::new();
    registry.register(Box::new(Exporter::new(board.clone())?))?;
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(Arc::new(registry));
    let health = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(board);
    Ok(metrics.merge(health))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::with_capacity(1 << 16);
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written: see the log\n").into_response()
        }
    }
}

async fn ready(State(board): State<Board>) -> Response {
    let facts = board.copy();
    let reading = facts.view.as_ref().map(|view| Reading::take(view, None)).unwrap_or_default();
    if facts.ready(&reading) {
        return (StatusCode::OK, "forwarding\n").into_response();
    }
    let why = if facts.attached {
        "attached, but a worker is stalled or has no policy or forwarding table\n"
    } else {
        "no dataplane is attached\n"
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

#[cfg(test)]
mod tests;
