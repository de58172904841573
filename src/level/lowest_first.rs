//! Who is turned away first, where not everyone counts the same.

use super::Turned;
use crate::units::Ratio;

/// Lays out the part of all arrivals that is turned away over classes: the lowest class loses everyone before the next
/// loses anyone.
///
/// `arrivals` are those of each class, lowest first, in whatever unit (a rate, a count): what counts is their
/// proportion. The result has as many parts, each from 0 to 1 and of its own class's arrivals, so that
/// Σ part × arrivals = `turned` × Σ arrivals. It grows with `turned`, in every class. A class from which nobody comes
/// is turned away as soon as a class above it is. Where nothing is known of the arrivals, all count as the lowest class.
#[must_use]
pub fn lowest_first(turned: Ratio, arrivals: &[f64]) -> Vec<Ratio> {
    // No rounding may let anyone in where nobody is let in, nor turn the highest away where nobody is turned away.
    if turned >= Ratio::ONE || turned == Ratio::ZERO {
        return vec![
            if turned == Ratio::ZERO {
                turned
            } else {
                Ratio::ONE
            };
            arrivals.len()
        ];
    }
    let known = |arrivals: &f64| {
        if arrivals.is_finite() {
            arrivals.max(0.0)
        } else {
            0.0
        }
    };
    let all: f64 = arrivals.iter().map(known).sum();
    let mut left = turned.get() * all;
    let mut parts: Vec<Ratio> = arrivals
        .iter()
        .map(|arrivals| {
            let arrivals = known(arrivals);
            let part = if left >= arrivals && left > 0.0 {
                1.0
            } else if left > 0.0 {
                left / arrivals
            } else {
                0.0
            };
            left -= arrivals;
            Ratio::saturating(part)
        })
        .collect();
    if all <= 0.0
        && let Some(lowest) = parts.first_mut()
    {
        *lowest = turned;
    }
    parts
}

impl Turned {
    /// The same for each class, by its `arrivals`, lowest first: see [`lowest_first`].
    #[must_use]
    pub fn lowest_first(self, arrivals: &[f64]) -> Vec<Self> {
        let throttled = lowest_first(self.throttled, arrivals);
        let dropped = lowest_first(self.dropped, arrivals);
        throttled
            .into_iter()
            .zip(dropped)
            .map(|(throttled, dropped)| Self { throttled, dropped })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(turned: f64, arrivals: &[f64]) -> Vec<f64> {
        let parts = lowest_first(Ratio::new(turned).unwrap(), arrivals);
        parts.into_iter().map(Ratio::get).collect()
    }

    #[test]
    fn the_lowest_class_loses_everyone_before_the_next_loses_anyone() {
        let arrivals = [60.0, 30.0, 10.0];
        assert_eq!(parts(0.0, &arrivals), [0.0, 0.0, 0.0]);
        assert_eq!(parts(0.3, &arrivals), [0.5, 0.0, 0.0]);
        assert_eq!(parts(0.6, &arrivals), [1.0, 0.0, 0.0]);
        assert_eq!(parts(0.75, &arrivals), [1.0, 0.5, 0.0]);
        assert_eq!(parts(0.95, &arrivals), [1.0, 1.0, 0.5]);
        assert_eq!(parts(1.0, &arrivals), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn one_class_is_turned_away_as_if_there_were_none() {
        for turned in [0.0, 0.1, 0.7, 1.0] {
            let part = parts(turned, &[17.0])[0];
            assert!((part - turned).abs() < 1e-12, "{part} is not {turned}");
        }
        assert_eq!(parts(0.5, &[]), Vec::<f64>::new());
    }

    #[test]
    fn of_whom_nothing_is_known_count_as_the_lowest() {
        assert_eq!(parts(0.4, &[0.0, 0.0, 0.0]), [0.4, 0.0, 0.0]);
        assert_eq!(parts(1.0, &[0.0, 0.0, 0.0]), [1.0, 1.0, 1.0]);
        assert_eq!(parts(0.5, &[f64::NAN, -1.0, 2.0]), [1.0, 1.0, 0.5]);
    }

    #[test]
    fn both_parts_are_laid_out_alike() {
        let turned = Turned {
            throttled: Ratio::ONE,
            dropped: Ratio::new(0.25).unwrap(),
        };
        let classes = turned.lowest_first(&[1.0, 1.0]);
        assert_eq!(classes[0].throttled, Ratio::ONE);
        assert_eq!(classes[1].throttled, Ratio::ONE);
        assert_eq!(classes[0].dropped.get(), 0.5);
        assert_eq!(classes[1].dropped, Ratio::ZERO);
    }

    /// Classes of which some are empty.
    fn arrivals() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop_oneof![3 => 0.0..1e6_f64, 1 => Just(0.0)], 1..8)
    }

    proptest! {
        #[test]
        fn as_many_are_turned_away_as_shall_be(turned in 0.0..=1.0_f64, arrivals in arrivals()) {
            let parts = parts(turned, &arrivals);
            let all: f64 = arrivals.iter().sum();
            let away: f64 = parts.iter().zip(&arrivals).map(|(part, arrivals)| part * arrivals).sum();
            prop_assert!((away - turned * all).abs() <= 1e-9 * all.max(1.0), "{away} of {all}: {parts:?}");
        }

        #[test]
        fn a_class_is_touched_only_when_all_below_it_are_gone(turned in 0.0..=1.0_f64, arrivals in arrivals()) {
            let parts = parts(turned, &arrivals);
            prop_assert_eq!(parts.len(), arrivals.len());
            for (class, part) in parts.iter().enumerate() {
                prop_assert!((0.0..=1.0).contains(part));
                if *part > 0.0 {
                    prop_assert!(parts[..class].iter().all(|below| *below == 1.0), "{parts:?}");
                }
            }
        }

        #[test]
        fn who_is_turned_away_stays_so_when_more_are(
            a in 0.0..=1.0_f64, b in 0.0..=1.0_f64, arrivals in arrivals(),
        ) {
            let (fewer, more) = (parts(a.min(b), &arrivals), parts(a.max(b), &arrivals));
            for (fewer, more) in fewer.iter().zip(&more) {
                prop_assert!(fewer <= more, "{fewer} and {more}");
            }
        }

        #[test]
        fn the_unit_of_the_arrivals_does_not_matter(turned in 0.0..=1.0_f64, arrivals in arrivals()) {
            let as_they_are = parts(turned, &arrivals);
            // A power of two: not a bit is rounded.
            let scaled: Vec<f64> = arrivals.iter().map(|arrivals| arrivals / 1024.0).collect();
            prop_assert_eq!(as_they_are, parts(turned, &scaled));
        }

        #[test]
        fn nonsense_does_no_harm(turned: f64, arrivals: Vec<f64>) {
            let parts = lowest_first(Ratio::saturating(turned), &arrivals);
            prop_assert!(parts.iter().all(|part| (0.0..=1.0).contains(&part.get())));
        }
    }
}
