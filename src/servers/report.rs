//! What a server says of its own load: an ORCA report.
//!
//! [Open Request Cost Aggregation] in its JSON form. The load is `application_utilization`, which a server
//! that knows several signals sets to the highest of them; where it is left out, the highest of
//! `cpu_utilization` and `named_metrics.bandwidth`. Anything that is no load (not JSON, negative, no number,
//! too long) is refused with a reason: a server that talks nonsense must not attract or repel the crowd.
//!
//! [Open Request Cost Aggregation]: https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto

use serde::Deserialize;

use crate::units::Ratio;

/// The longest report that is read, in bytes.
pub(super) const LIMIT: usize = 64 * 1024;
/// The largest load that is believed: ten times overloaded is as bad as it gets.
const HIGHEST: f64 = 10.0;

/// Why a report counts for nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Not a report at all.
    #[error("expected an ORCA report as JSON: {0}")]
    NotJson(String),
    /// A field is no load.
    #[error("expected `{field}` to be a number from 0 to {HIGHEST}, found {found}")]
    NotALoad {
        /// The field.
        field: &'static str,
        /// Its value.
        found: f64,
    },
    /// None of the fields that tell a load is there.
    #[error(
        "expected `application_utilization`, `cpu_utilization` or `named_metrics.bandwidth`, found none"
    )]
    Empty,
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
}

/// The load that a report tells.
///
/// # Errors
/// Says which field is no load, or that the text is no report.
pub fn parse(body: &[u8]) -> Result<Ratio, ReportError> {
    let report: Orca =
        serde_json::from_slice(body).map_err(|error| ReportError::NotJson(error.to_string()))?;
    let fields = [
        ("application_utilization", report.application_utilization),
        ("cpu_utilization", report.cpu_utilization),
        ("named_metrics.bandwidth", report.named_metrics.bandwidth),
    ];
    let mut loads = [None; 3];
    for (load, (field, value)) in loads.iter_mut().zip(fields) {
        if let Some(found) = value {
            let ratio = Ratio::new(found).filter(|ratio| ratio.get() <= HIGHEST);
            *load = Some(ratio.ok_or(ReportError::NotALoad { field, found })?);
        }
    }
    let [application, cpu, bandwidth] = loads;
    let highest = match (cpu, bandwidth) {
        (Some(a), Some(b)) => Some(if a > b { a } else { b }),
        (a, b) => a.or(b),
    };
    application.or(highest).ok_or(ReportError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        fn reads_any_number_or_refuses_it(number in proptest::num::f64::ANY) {
            let body = format!("{{\"application_utilization\":{number}}}");
            if let Ok(load) = parse(body.as_bytes()) {
                // The last digit may be lost on the way: reports are read fast, not to the last bit.
                proptest::prop_assert!((load.get() - number).abs() <= number * 1e-12);
            }
        }
    }
}
