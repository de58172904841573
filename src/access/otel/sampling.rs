//! Which traces are recorded: `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

use crate::{
    problem::Problem,
    trace::{TraceId, TraceParent},
};

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    /// Whoever began a trace has decided about it.
    by_parent: bool,
    /// The part of the others.
    part: f64,
}

const NAME: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

// === impl Sampling ===

impl Sampling {
    /// By the parent, and all others, unless the environment says otherwise.
    pub(super) fn of_environment() -> Result<Self, Problem> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self::named(&variable(NAME), &variable(ARGUMENT))
    }

    fn named(name: &str, argument: &str) -> Result<Self, Problem> {
        let (by_parent, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None if name.is_empty() => (true, "always_on"),
            None => (false, name),
        };
        let part = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" if argument.is_empty() => 1.0,
            "traceidratio" => argument
                .parse()
                .ok()
                .filter(|part| (0.0..=1.0).contains(part))
                .ok_or_else(|| Problem::new(ARGUMENT, "must be a number from 0 to 1"))?,
            _ => {
                let expected = "must be always_on, always_off or traceidratio, each alone or after parentbased_";
                return Err(Problem::new(NAME, expected));
            }
        };
        Ok(Self { by_parent, part })
    }

    /// Whether `trace` is recorded. The same trace gets the same answer everywhere.
    pub(super) fn samples(self, parent: Option<TraceParent>, trace: TraceId) -> bool {
        if self.by_parent
            && let Some(parent) = parent
        {
            return parent.is_sampled();
        }
        // The last eight bytes are random where any are (Trace Context 3.2.2.3).
        let [.., a, b, c, d, e, f, g, h] = trace.0;
        let place = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11;
        (place as f64) < self.part * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{servers::hash::mix, trace::SpanId};

    #[test]
    fn who_began_a_trace_decides_unless_it_is_said_otherwise() {
        let trace = TraceId([7; 16]);
        let parent = |flags| {
            let span = SpanId([1; 8]);
            Some(TraceParent { trace, span, flags })
        };
        for (name, argument, of_sampled, of_unsampled, of_none) in [
            ("", "", true, false, true),
            ("parentbased_always_on", "", true, false, true),
            ("parentbased_always_off", "", true, false, false),
            ("always_on", "", true, true, true),
            ("always_off", "", false, false, false),
            ("parentbased_traceidratio", "0", true, false, false),
            ("traceidratio", "1", true, true, true),
        ] {
            let sampling = Sampling::named(name, argument).unwrap();
            assert_eq!(sampling.samples(parent(1), trace), of_sampled, "{name}");
            assert_eq!(sampling.samples(parent(0), trace), of_unsampled, "{name}");
            assert_eq!(sampling.samples(None, trace), of_none, "{name}");
        }
        assert_eq!(Sampling::named("xray", "").unwrap_err().key, NAME);
        assert_eq!(
            Sampling::named("traceidratio", "2").unwrap_err().key,
            ARGUMENT
        );
    }

    #[test]
    fn a_ratio_is_met() {
        let sampling = Sampling::named("traceidratio", "0.25").unwrap();
        let traces = (0..10_000_u64).map(|n| TraceId(u128::from(mix(n)).to_be_bytes()));
        let sampled = traces
            .filter(|trace| sampling.samples(None, *trace))
            .count();
        assert!((2300..2700).contains(&sampled), "{sampled}");
    }
}
