//! Prometheus' text format 0.0.4, which every scraper and `promtool` reads (prometheus.io, "Exposition formats").

use std::fmt::Write;

use crate::services::node::Histogram;

/// The content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page under way.
#[derive(Default)]
pub(super) struct Page {
    text: String,
}

/// Labels of one sample, name and value.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// A counter: `name` without `_total`, which is added.
    pub(super) fn counter<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.family(&format!("{name}_total"), "counter", help, samples);
    }

    /// A gauge.
    pub(super) fn gauge<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.family(name, "gauge", help, samples);
    }

    /// A histogram without labels.
    pub(super) fn histogram(&mut self, name: &str, help: &str, held: &Histogram) {
        self.head(name, "histogram", help);
        for (bound, count) in &held.buckets {
            self.sample(&format!("{name}_bucket"), &[("le", &bound.to_string())], *count as f64);
        }
        self.sample(&format!("{name}_bucket"), &[("le", "+Inf")], held.count as f64);
        self.sample(&format!("{name}_sum"), &[], held.sum);
        self.sample(&format!("{name}_count"), &[], held.count as f64);
    }

    /// The page as it is sent.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn family<'a>(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(name);
        for (number, (label, held)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let escaped = held.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{escaped}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_the_format_says() {
        let mut page = Page::default();
        page.counter("a_bytes", "Bytes.", [(&[("k", "a\"b\\c\nd")][..], 3.0), (&[][..], 18_446_744_073_709.0)]);
        page.gauge("b", "One.", [(&[("x", "1"), ("y", "2")][..], 0.5)]);
        let held = Histogram { buckets: vec![(0.001, 1), (10.0, 2)], count: 3, sum: 40.25 };
        page.histogram("c_seconds", "Time.", &held);
        assert_eq!(
            page.finish(),
            "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total{k=\"a\\\"b\\\\c\\nd\"} 3\n\
             a_bytes_total 18446744073709\n# HELP b One.\n# TYPE b gauge\nb{x=\"1\",y=\"2\"} 0.5\n\
             # HELP c_seconds Time.\n# TYPE c_seconds histogram\nc_seconds_bucket{le=\"0.001\"} 1\n\
             c_seconds_bucket{le=\"10\"} 2\nc_seconds_bucket{le=\"+Inf\"} 3\nc_seconds_sum 40.25\nc_seconds_count 3\n"
        );
    }
}
