//! A metric of a [text endpoint]: nearly every program has one.
//!
//! The samples of the metric whose labels are as asked for are added up. A gauge is what it is; of a counter
//! the rate is what counts, from one look to the next. Either against a capacity is a load.
//!
//! [text endpoint]: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{ReportError, shown};

/// The longest page of metrics that is read, in bytes.
pub(in crate::servers) const LIMIT: usize = 4 * 1024 * 1024;
/// How far a sample's own time may lie ahead: clocks differ.
const AHEAD: Duration = Duration::from_secs(60);
/// And how far it may lie back.
const BEHIND: Duration = Duration::from_secs(300);

/// The sum of the samples of `metric` that have all of `labels`. `unix` is the time, in seconds since 1970.
///
/// # Errors
/// Where there is no such sample, or one is no sample, is of another time, or makes no sense.
pub fn find(
    page: &[u8],
    metric: &str,
    labels: &BTreeMap<String, String>,
    unix: f64,
) -> Result<f64, ReportError> {
    let mut sum = None;
    for line in page.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let Some(rest) = line.strip_prefix(metric.as_bytes()) else {
            continue;
        };
        // The name goes on: another metric.
        if !matches!(rest.first(), Some(b'{' | b' ' | b'\t')) {
            continue;
        }
        let sample = std::str::from_utf8(rest).ok().and_then(Sample::parse);
        let sample = sample.ok_or_else(|| ReportError::NotASample(shown(line)))?;
        let is_meant = labels
            .iter()
            .all(|(name, value)| sample.labels.get(name.as_str()) == Some(value));
        if !is_meant {
            continue;
        }
        if let Some(at) = sample.at {
            is_of_now(at, unix)?;
        }
        *sum.get_or_insert(0.0) += sample.value;
    }
    let sum: f64 = sum.ok_or_else(|| ReportError::NoSample(metric.to_owned()))?;
    if sum.is_finite() && sum >= 0.0 {
        Ok(sum)
    } else {
        Err(ReportError::NotAMeasure(sum))
    }
}

fn is_of_now(at: f64, unix: f64) -> Result<(), ReportError> {
    let ahead = at - unix;
    if ahead > AHEAD.as_secs_f64() {
        Err(ReportError::AnotherTime(ahead as u64, "ahead of us"))
    } else if -ahead > BEHIND.as_secs_f64() {
        Err(ReportError::AnotherTime(-ahead as u64, "old"))
    } else {
        Ok(())
    }
}

/// What stands behind the name.
struct Sample<'a> {
    labels: BTreeMap<&'a str, String>,
    value: f64,
    /// Seconds since 1970.
    at: Option<f64>,
}

impl<'a> Sample<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (labels, rest) = match text.strip_prefix('{') {
            Some(text) => labels(text)?,
            None => (BTreeMap::new(), text),
        };
        // Behind a number sign stands an exemplar.
        let mut words = rest.split('#').next()?.split_ascii_whitespace();
        let value = words.next()?.parse().ok()?;
        let at = match words.next() {
            None => None,
            Some(word) => {
                let at = word.parse::<f64>().ok().filter(|at| at.is_finite())?;
                // Milliseconds in Prometheus's format, seconds in OpenMetrics. As seconds, this number
                // is the year 5138.
                Some(if at.abs() >= 1e11 { at / 1000.0 } else { at })
            }
        };
        words.next().is_none().then_some(Self { labels, value, at })
    }
}

/// Reads labels up to the closing brace; gives what is behind it.
fn labels(mut text: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once('=')?;
        let rest = rest.trim_start().strip_prefix('"')?;
        let (value, rest) = quoted(rest)?;
        labels.insert(name.trim(), value);
        text = rest;
    }
}

/// Reads up to the closing quote; gives what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

/// How fast a counter grows.
#[derive(Debug, Default)]
pub struct Rate {
    last: Option<(f64, Instant)>,
}

// === impl Rate ===

impl Rate {
    /// What it grew by a second since the last look; [`None`] at the first look, and after the counter began
    /// anew.
    pub fn observe(&mut self, value: f64, now: Instant) -> Option<f64> {
        let (before, then) = self.last.replace((value, now))?;
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        (value >= before && elapsed > 0.0).then(|| (value - before) / elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP node_network_transmit_bytes_total Network device statistic.
# TYPE node_network_transmit_bytes_total counter
node_network_transmit_bytes_total{device="eth0"} 1.5e+06
node_network_transmit_bytes_total{device="lo"} 20
node_network_transmit_bytes_total_more 7
node_load1 0.25
odd{path="a\\b\"c\n{}",device="x",} 3 1700000000000
odd{path="y" , device="x"} 4 1700000000.5 # {trace="z"} 1
broken{device="x" 1
nothing NaN
"#;
    const THEN: f64 = 1_700_000_000.0;

    fn ask(metric: &str, labels: &[(&str, &str)], unix: f64) -> Result<f64, String> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        find(PAGE.as_bytes(), metric, &labels, unix).map_err(|error| error.to_string())
    }

    #[test]
    fn finds_a_metric_by_its_labels_and_adds_up_the_rest() {
        let bytes = "node_network_transmit_bytes_total";
        assert_eq!(ask(bytes, &[("device", "eth0")], THEN), Ok(1.5e6));
        assert_eq!(ask(bytes, &[], THEN), Ok(1_500_020.0));
        assert_eq!(ask("node_load1", &[], THEN), Ok(0.25));
        assert_eq!(ask("odd", &[("path", "a\\b\"c\n{}")], THEN), Ok(3.0));
        assert_eq!(ask("odd", &[("device", "x")], THEN), Ok(7.0));
    }

    #[test]
    fn refuses_what_is_not_there_broken_absurd_or_of_another_time() {
        for (metric, labels, unix, reason) in [
            ("node_load5", &[][..], THEN, "`node_load5`"),
            ("node_load1", &[("a", "b")], THEN, "found none"),
            ("broken", &[], THEN, "found \"broken{device"),
            ("nothing", &[], THEN, "found NaN"),
            ("odd", &[], THEN - 100.0, "s ahead of us"),
            ("odd", &[], THEN + 1000.0, "s old"),
        ] {
            let error = ask(metric, labels, unix).unwrap_err();
            assert!(error.contains(reason), "{metric}: {error}");
        }
    }

    #[test]
    fn a_counter_is_a_rate_from_the_second_look_on_and_may_begin_anew() {
        let now = Instant::now();
        let mut rate = Rate::default();
        let mut after = |seconds, value| rate.observe(value, now + Duration::from_secs(seconds));
        assert_eq!(after(0, 1e6), None);
        assert_eq!(after(2, 3e6), Some(1e6));
        assert_eq!(after(2, 3e6), None, "no time has passed");
        assert_eq!(after(3, 100.0), None, "the server was started anew");
        assert_eq!(after(4, 600.0), Some(500.0));
        assert_eq!(after(5, 600.0), Some(0.0));
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_a_sane_number_or_none(page in "(a|a_b|b)?(\\{[a-z\"=,\\\\ ]{0,12}\\}?)? ?[-+0-9eEinfNa.]{0,5} ?[0-9.e]{0,4}\n?.{0,20}") {
            if let Ok(value) = find(page.as_bytes(), "a", &BTreeMap::new(), THEN) {
                proptest::prop_assert!(value.is_finite() && value >= 0.0);
            }
        }

        #[test]
        fn labels_read_as_they_were_written(value in "[a-z\"\\\\\n{}=, #]{0,10}", number in 0.0..1e9f64) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let page = format!("a{{b=\"{escaped}\"}} {number}\n");
            let labels = [("b".to_owned(), value)].into();
            proptest::prop_assert_eq!(find(page.as_bytes(), "a", &labels, THEN), Ok(number));
        }
    }
}
