//! What `/metrics` shows, in the text format of Prometheus. Counters and histograms are atomics: counting costs
//! a request nothing that it would notice, and no label ever holds what a stranger sent.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets, in milliseconds.
const BUCKETS_MS: [u64; 14] = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000];

#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let ms = duration.as_secs_f64() * 1e3;
        if let Some(bucket) = BUCKETS_MS.iter().position(|&bound| ms <= bound as f64) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, page: &mut Page, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut reached = 0;
        for (bound, bucket) in BUCKETS_MS.iter().zip(&self.buckets) {
            reached += bucket.load(Ordering::Relaxed);
            let le = *bound as f64 / 1e3;
            page.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{le}\""), reached as f64);
        }
        let count = self.count.load(Ordering::Relaxed);
        page.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), count as f64);
        page.sample(&format!("{name}_sum"), labels, self.sum_us.load(Ordering::Relaxed) as f64 / 1e6);
        page.sample(&format!("{name}_count"), labels, count as f64);
    }
}

/// Requests to one row of the route table.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    /// By the status's first digit: 2xx to 5xx.
    classes: [AtomicU64; 4],
    latency: Histogram,
}

impl RouteMetrics {
    pub fn observe(&self, status: u16, duration: Duration) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.latency.observe(duration);
    }
}

#[derive(Debug)]
pub struct Metrics {
    /// Label of each route, and its numbers.
    pub routes: Vec<(String, RouteMetrics)>,
    /// From the request to the first token, and between tokens.
    pub first_token: Histogram,
    pub between_tokens: Histogram,
    pub answers_done: AtomicU64,
    pub answers_cancelled: AtomicU64,
    pub answers_failed: AtomicU64,
    /// Requests that brought no valid token, or none at all.
    pub unauthenticated: AtomicU64,
}

impl Metrics {
    pub fn new(routes: impl Iterator<Item = String>) -> Self {
        Self {
            routes: routes.map(|label| (label, RouteMetrics::default())).collect(),
            first_token: Histogram::default(),
            between_tokens: Histogram::default(),
            answers_done: AtomicU64::new(0),
            answers_cancelled: AtomicU64::new(0),
            answers_failed: AtomicU64::new(0),
            unauthenticated: AtomicU64::new(0),
        }
    }

    pub fn write(&self, page: &mut Page) {
        page.head("cloister_http_requests_total", "counter", "Requests by route and class of status.");
        for (route, metrics) in &self.routes {
            for (class, count) in metrics.classes.iter().enumerate() {
                let labels = format!("{route},status=\"{}xx\"", class + 2);
                page.sample("cloister_http_requests_total", &labels, count.load(Ordering::Relaxed) as f64);
            }
        }
        let name = "cloister_http_request_duration_seconds";
        page.head(name, "histogram", "Time to the head of the response.");
        for (route, metrics) in &self.routes {
            metrics.latency.write(page, name, route);
        }
        let name = "cloister_first_token_seconds";
        page.head(name, "histogram", "From the request to its answer's first token.");
        self.first_token.write(page, name, "");
        let name = "cloister_between_tokens_seconds";
        page.head(name, "histogram", "Between two tokens of an answer.");
        self.between_tokens.write(page, name, "");
        page.head("cloister_answers_total", "counter", "Answers by how they ended.");
        for (outcome, count) in [
            ("done", &self.answers_done),
            ("cancelled", &self.answers_cancelled),
            ("failed", &self.answers_failed),
        ] {
            let labels = format!("outcome=\"{outcome}\"");
            page.sample("cloister_answers_total", &labels, count.load(Ordering::Relaxed) as f64);
        }
        let name = "cloister_unauthenticated_requests_total";
        page.head(name, "counter", "Requests without a valid token.");
        page.sample(name, "", self.unauthenticated.load(Ordering::Relaxed) as f64);
    }
}

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            _ => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// A label's value with the characters escaped that would end it.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_at_the_count() {
        let histogram = Histogram::default();
        for ms in [1, 3, 40, 500_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        histogram.write(&mut page, "x", "model=\"m\"");
        let text = page.into_text();
        for line in [
            "x_bucket{model=\"m\",le=\"0.001\"} 1",
            "x_bucket{model=\"m\",le=\"0.005\"} 2",
            "x_bucket{model=\"m\",le=\"0.05\"} 3",
            "x_bucket{model=\"m\",le=\"120\"} 3",
            "x_bucket{model=\"m\",le=\"+Inf\"} 4",
            "x_sum{model=\"m\"} 500.044",
            "x_count{model=\"m\"} 4",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn a_label_cannot_break_out() {
        assert_eq!(escaped("a\"} 1\nb\\"), "a\\\"} 1\\nb\\\\");
    }
}
