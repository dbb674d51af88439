//! Metrics as scrapers read them: Prometheus's text format, or its protobuf format, which has native histograms beside the
//! classic ones.
//!
//! A Prometheus that stores native histograms asks for the protobuf format, as `Accept` is negotiated
//! (prometheus.io, "Exposition formats").

use std::{collections::HashMap, sync::LazyLock};

use prometheus_client::{
    encoding::{prometheus_protobuf, prometheus_text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        histogram::{Histogram, NativeHistogramConfig},
    },
    registry::Registry,
};

use super::metric::{ALL, Kind, Metric};

/// The protobuf format, as `Accept` and `Content-Type` name it.
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// Buckets of a native histogram: what is beyond makes them wider.
const NATIVE_BUCKETS_MAX: usize = 160;

/// A format of the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Text format 0.0.4, which every scraper reads.
    Text,
    /// Delimited `io.prometheus.client.MetricFamily`.
    Protobuf,
}

/// Names and values of a series' labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Makes a histogram with the bounds of its metric.
#[derive(Clone, Copy)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        let native = NativeHistogramConfig::default().max_buckets(NATIVE_BUCKETS_MAX);
        Histogram::new_classic_and_native(self.0.iter().copied(), native)
    }
}

/// The metrics of this process.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

struct Metrics {
    registry: Registry,
    counters: HashMap<&'static str, Family<Labels, Counter>>,
    histograms: HashMap<&'static str, Family<Labels, Histogram, Bounds>>,
}

impl Metrics {
    /// Registers every metric of the table.
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            counters: HashMap::new(),
            histograms: HashMap::new(),
        };
        for Metric { name, kind, help, .. } in ALL {
            // The registry adds the full stop, and the suffix of a counter.
            let help = help.trim_end_matches('.');
            match kind {
                Kind::Counter => {
                    let family = Family::default();
                    let base = name.strip_suffix("_total").unwrap_or(name);
                    metrics.registry.register(base, help, family.clone());
                    metrics.counters.insert(name, family);
                }
                Kind::Histogram(bounds) => {
                    let family = Family::new_with_constructor(Bounds(bounds));
                    metrics.registry.register(*name, help, family.clone());
                    metrics.histograms.insert(name, family);
                }
            }
        }
        metrics
    }
}

/// Adds to the counter of these labels, which exists from then on.
pub(super) fn add(name: &str, labels: &Labels, events: u64) {
    METRICS.counters[name].get_or_create(labels).inc_by(events);
}

/// Observes a value in the histogram of these labels, which exists from then on; without a value, it only makes it exist.
pub(super) fn observe(name: &str, labels: &Labels, value: Option<f64>) {
    let histogram = METRICS.histograms[name].get_or_create(labels);
    if let Some(value) = value {
        histogram.observe(value);
    }
}

impl Format {
    /// The format that a scraper wants most (RFC 9110, 12.5.1), the text format if it does not say. `accept` are the values of
    /// its `Accept` fields.
    pub fn preferred<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut text, mut protobuf) = (0.0_f32, 0.0_f32);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut proto, mut encoding) = (1.0_f32, "", "");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "proto" => proto = value.trim().trim_matches('"'),
                    "encoding" => encoding = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            match media_type.as_str() {
                "application/vnd.google.protobuf"
                    if proto == "io.prometheus.client.MetricFamily" && encoding == "delimited" =>
                {
                    protobuf = quality.max(protobuf);
                }
                "text/plain" | "text/*" | "*/*" => text = quality.max(text),
                _ => {}
            }
        }
        if protobuf > text {
            Self::Protobuf
        } else {
            Self::Text
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// The metrics could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("write the metrics")]
pub enum RenderError {
    /// As text.
    Text(#[from] std::fmt::Error),
    /// As protobuf.
    Protobuf(#[from] prometheus_protobuf::EncodeError),
}

/// All metrics, as they are now.
///
/// # Errors
///
/// None that this program can cause: a value that the format cannot hold.
pub fn render(format: Format) -> Result<Vec<u8>, RenderError> {
    let registry = &METRICS.registry;
    match format {
        Format::Text => {
            let mut text = String::new();
            prometheus_text::encode(&mut text, registry)?;
            Ok(text.into_bytes())
        }
        Format::Protobuf => Ok(prometheus_protobuf::encode_to_vec(registry)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_native_histograms_gets_them() {
        const DELIMITED: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, format) in [
            // Prometheus 2.40 and up with native histograms.
            (
                format!(
                    "{DELIMITED},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                ),
                Format::Protobuf,
            ),
            // Prometheus 3 with them.
            (
                format!(
                    "{DELIMITED};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                ),
                Format::Protobuf,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"
                    .to_owned(),
                Format::Text,
            ),
            (format!("text/plain, {DELIMITED};q=0.5"), Format::Text),
            (format!("{DELIMITED};q=0"), Format::Text),
            (
                "application/vnd.google.protobuf;proto=\"io.prometheus.client.MetricFamily\"; encoding=text"
                    .to_owned(),
                Format::Text,
            ),
            ("application/vnd.google.protobuf".to_owned(), Format::Text),
            ("*/*".to_owned(), Format::Text),
            (";;q=,,=".to_owned(), Format::Text),
        ] {
            assert_eq!(Format::preferred([accept.as_str()]), format, "{accept}");
        }
        assert_eq!(Format::preferred([]), Format::Text);
        assert_eq!(Format::preferred(["*/*;q=0.1", DELIMITED]), Format::Protobuf);
    }
}
