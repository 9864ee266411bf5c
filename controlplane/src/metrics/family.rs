//! A metric with its series, before it takes the form the encoder wants.

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A series' value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram {
        /// Upper bounds and how many fell between them and the one before; the last bound is infinite.
        buckets: Vec<(f64, u64)>,
        /// Sum of what was counted.
        sum: f64,
    },
}

/// A metric and its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Label values and value of each series.
    pub rows: Vec<(Vec<String>, Value)>,
}

impl Family {
    const fn new(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, help, kind, labels, rows: Vec::new() }
    }

    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self::new(Kind::Counter, name, help, labels)
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self::new(Kind::Gauge, name, help, labels)
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self::new(Kind::Histogram, name, help, labels)
    }

    /// The same with one more series.
    pub fn row(mut self, labels: &[&str], value: f64) -> Self {
        self.rows.push((labels.iter().map(|&label| label.to_owned()).collect(), Value::Number(value)));
        self
    }

    /// The same with a series for each item.
    pub fn each<T>(
        mut self,
        items: impl IntoIterator<Item = T>,
        row: impl Fn(&T) -> (Vec<String>, f64),
    ) -> Self {
        for item in items {
            let (labels, value) = row(&item);
            self.rows.push((labels, Value::Number(value)));
        }
        self
    }

    /// The same with one more series of a histogram.
    pub fn bars(mut self, labels: Vec<String>, buckets: Vec<(f64, u64)>, sum: u64) -> Self {
        self.rows.push((labels, Value::Histogram { buckets, sum: sum as f64 }));
        self
    }
}
