//! [Open Request Cost Aggregation], in its JSON form and in the text form of [Envoy].
//!
//! The load is `application_utilization`, which a server that knows several signals sets to the highest of
//! them; where it is left out, the highest of `cpu_utilization` and `named_metrics.bandwidth`. By a
//! `named_metrics.over_threshold` above 0 it says that it is over a threshold of its own, whatever ours is: it wants no
//! more work. What else a report tells is passed over.
//!
//! ```text
//! {"application_utilization":0.72,"named_metrics":{"bandwidth":0.72}}
//! TEXT application_utilization=0.72, named_metrics.bandwidth=0.72
//! application_utilization:0.72
//! ```
//!
//! [Open Request Cost Aggregation]: https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto
//! [Envoy]: https://github.com/envoyproxy/envoy/blob/main/source/common/orca/orca_parser.cc

use serde::Deserialize;

use super::{ReportError, believable, shown};
use crate::units::Ratio;

/// The fields that count.
const FIELDS: [&str; 4] = [
    "application_utilization",
    "cpu_utilization",
    "named_metrics.bandwidth",
    "named_metrics.over_threshold",
];

/// What a report tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrcaReport {
    /// The load.
    pub load: Ratio,
    /// It is over a threshold of its own.
    pub is_over: bool,
}

#[derive(Deserialize)]
struct Orca {
    application_utilization: Option<f64>,
    cpu_utilization: Option<f64>,
    #[serde(default)]
    named_metrics: NamedMetrics,
}

#[derive(Deserialize, Default)]
struct NamedMetrics {
    bandwidth: Option<f64>,
    over_threshold: Option<f64>,
}

/// The load that an ORCA report tells. `TEXT` or `JSON` in front of it says its form, as in a header; without,
/// JSON begins as JSON does.
///
/// # Errors
/// Says which field is no load, or that the text is no report.
pub fn parse(body: &[u8]) -> Result<Ratio, ReportError> {
    read(body).map(|report| report.load)
}

/// All that an ORCA report tells.
///
/// # Errors
/// Those of [`parse`].
pub fn read(body: &[u8]) -> Result<OrcaReport, ReportError> {
    let body = body.trim_ascii();
    let values = if let Some(text) = body.strip_prefix(b"TEXT ") {
        text_form(text)
    } else if let Some(json) = body.strip_prefix(b"JSON ") {
        json_form(json)
    } else if looks_like_text(body) {
        text_form(body)
    } else {
        json_form(body)
    }?;
    let mut loads = [None; 4];
    for (load, (field, value)) in loads.iter_mut().zip(FIELDS.into_iter().zip(values)) {
        *load = value.map(|found| believable(field, found)).transpose()?;
    }
    let [application, cpu, bandwidth, over] = loads;
    let highest = match (cpu, bandwidth) {
        (Some(a), Some(b)) => Some(if a > b { a } else { b }),
        (a, b) => a.or(b),
    };
    Ok(OrcaReport {
        load: application.or(highest).ok_or(ReportError::Empty)?,
        is_over: over.is_some_and(|over| over > Ratio::ZERO),
    })
}

/// Whether it begins with a name and a separator. A page of HTML does not, nor does JSON.
fn looks_like_text(body: &[u8]) -> bool {
    let name = body
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        .count();
    let rest = body[name..].trim_ascii_start();
    name > 0 && matches!(rest.first(), Some(b'=' | b':'))
}

fn json_form(json: &[u8]) -> Result<[Option<f64>; 4], ReportError> {
    let report: Orca =
        serde_json::from_slice(json).map_err(|error| ReportError::NotJson(error.to_string()))?;
    Ok([
        report.application_utilization,
        report.cpu_utilization,
        report.named_metrics.bandwidth,
        report.named_metrics.over_threshold,
    ])
}

/// Pairs with `=` or `:` between name and value, separated by commas or ends of lines.
fn text_form(text: &[u8]) -> Result<[Option<f64>; 4], ReportError> {
    let mut values = [None; 4];
    let pairs = text.split(|byte| matches!(byte, b',' | b'\n'));
    for pair in pairs
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
    {
        let wrong = || ReportError::NotText(shown(pair));
        let separator = pair
            .iter()
            .position(|byte| matches!(byte, b'=' | b':'))
            .ok_or_else(wrong)?;
        let name = pair[..separator].trim_ascii();
        let Some(field) = FIELDS.iter().position(|field| field.as_bytes() == name) else {
            continue;
        };
        let value = std::str::from_utf8(&pair[separator + 1..])
            .ok()
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(wrong)?;
        if values[field].replace(value).is_some() {
            return Err(ReportError::Twice(FIELDS[field]));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::{super::HIGHEST, *};

    #[test]
    fn reads_the_load() {
        let report =
            br#"{"cpu_utilization":0.31,"application_utilization":0.72,"rps_fractional":120.5,
            "named_metrics":{"bandwidth":0.72}}"#;
        assert_eq!(parse(report).unwrap().get(), 0.72);
        assert_eq!(parse(br#"{"cpu_utilization":0.31}"#).unwrap().get(), 0.31);
        let both = br#"{"cpu_utilization":0.31,"named_metrics":{"bandwidth":0.4,"queue":7}}"#;
        assert_eq!(parse(both).unwrap().get(), 0.4);
        assert_eq!(
            parse(br#"{"application_utilization":1.3}"#).unwrap().get(),
            1.3
        );
    }

    #[test]
    fn reads_that_a_server_is_over_its_own_threshold() {
        for (text, is_over) in [
            (
                r#"{"cpu_utilization":0.3,"named_metrics":{"over_threshold":1.0}}"#,
                true,
            ),
            (
                r#"{"cpu_utilization":0.3,"named_metrics":{"over_threshold":0}}"#,
                false,
            ),
            (r#"{"cpu_utilization":0.3}"#, false),
            ("cpu_utilization=0.3, named_metrics.over_threshold=1", true),
            ("cpu_utilization=0.3, named_metrics.over_threshold=0", false),
        ] {
            let report = read(text.as_bytes()).unwrap();
            assert_eq!(
                (report.load.get(), report.is_over),
                (0.3, is_over),
                "{text}"
            );
        }
        // It is no load.
        assert!(read(b"named_metrics.over_threshold=1").is_err());
    }

    #[test]
    fn reads_the_text_form_with_either_separator() {
        for (text, load) in [
            (
                "TEXT application_utilization=0.3, named_metrics.bandwidth=0.7",
                0.3,
            ),
            ("application_utilization:0.3", 0.3),
            ("cpu_utilization: 0.3\nnamed_metrics.bandwidth: 0.7\n", 0.7),
            (
                "mem_utilization=0.9,cpu_utilization=0.2,named_metrics.x=high",
                0.2,
            ),
            ("rps_fractional = 12.5, cpu_utilization = 1e-1", 0.1),
            ("JSON {\"cpu_utilization\":0.4}", 0.4),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().get(), load, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_load_and_says_why() {
        for (body, reason) in [
            ("<html>", "JSON"),
            ("", "JSON"),
            ("[]", "JSON"),
            ("{}", "found none"),
            (r#"{"application_utilization":-0.1}"#, "found -0.1"),
            (r#"{"application_utilization":NaN}"#, "JSON"),
            (r#"{"application_utilization":1e999}"#, "JSON"),
            (r#"{"application_utilization":"high"}"#, "JSON"),
            (r#"{"application_utilization":1e9}"#, "0 to 10"),
            (
                r#"{"cpu_utilization":0.5,"named_metrics":{"bandwidth":-1}}"#,
                "named_metrics.bandwidth",
            ),
            ("TEXT", "JSON"),
            ("TEXT busy", "found \"busy\""),
            (
                "application_utilization=high",
                "found \"application_utilization=high\"",
            ),
            ("application_utilization=NaN", "found NaN"),
            ("application_utilization=-1", "found -1"),
            ("application_utilization=inf", "found inf"),
            ("cpu_utilization=0.1,cpu_utilization=0.2", "twice"),
            ("mem_utilization=0.1", "found none"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{body}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_gives_anything_but_a_sane_load(body: Vec<u8>) {
            if let Ok(load) = parse(&body) {
                proptest::prop_assert!(load.get() <= HIGHEST);
            }
        }

        #[test]
        fn neither_does_the_text_form(text in "(TEXT )?((application_utilization|cpu_utilization|x)[=:][-+.0-9eEnNaAif]{0,6}[,\n ]*){0,4}") {
            if let Ok(load) = parse(text.as_bytes()) {
                proptest::prop_assert!((0.0..=HIGHEST).contains(&load.get()));
            }
        }

        #[test]
        fn reads_any_number_or_refuses_it(number in proptest::num::f64::ANY) {
            let body = format!("{{\"application_utilization\":{number}}}");
            if let Ok(load) = parse(body.as_bytes()) {
                // The last digit may be lost on the way: reports are read fast, not to the last bit.
                proptest::prop_assert!((load.get() - number).abs() <= number * 1e-12);
            }
            let text = format!("application_utilization={number}");
            let sane = (0.0..=HIGHEST).contains(&number);
            proptest::prop_assert_eq!(parse(text.as_bytes()).ok().map(Ratio::get), sane.then_some(number));
        }
    }
}
