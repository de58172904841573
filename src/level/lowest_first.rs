//! Who is turned away first, where not everyone counts the same.

use super::Turned;
use crate::units::Ratio;

/// Where a class stands among all who come, lowest first: from which part of them on it is turned away, and from which
/// on all of it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    from: f64,
    through: f64,
}

/// The places of classes by their `arrivals`, lowest first, in whatever unit (a rate, a count): what counts is their
/// proportion. Where nothing is known of the arrivals, all count as the lowest class.
#[must_use]
pub fn places(arrivals: &[f64]) -> Vec<Place> {
    let known = |arrivals: &f64| {
        if arrivals.is_finite() {
            arrivals.max(0.0)
        } else {
            0.0
        }
    };
    let all: f64 = arrivals.iter().map(known).sum();
    let mut sum = 0.0;
    arrivals
        .iter()
        .enumerate()
        .map(|(class, arrivals)| {
            if all > 0.0 && all.is_finite() {
                let from = sum / all;
                sum += known(arrivals);
                let through = sum / all;
                Place { from, through }
            } else {
                // The lowest is all.
                let from = if class == 0 { 0.0 } else { 1.0 };
                Place { from, through: 1.0 }
            }
        })
        .collect()
}

// === impl Place ===

impl Place {
    /// Which part of the class is turned away where so much of all who come is: the lowest class loses everyone before
    /// the next loses anyone. A class from which nobody comes is turned away as soon as a class above it is.
    #[must_use]
    pub fn part(&self, turned: Ratio) -> Ratio {
        // No rounding may let anyone in where nobody is let in.
        if turned >= Ratio::ONE || turned.get() > 0.0 && turned.get() >= self.through {
            Ratio::ONE
        } else if turned.get() <= self.from {
            Ratio::ZERO
        } else {
            Ratio::saturating((turned.get() - self.from) / (self.through - self.from))
        }
    }

    /// The same for both parts that are turned away.
    #[must_use]
    pub fn of(&self, turned: Turned) -> Turned {
        Turned {
            throttled: self.part(turned.throttled),
            dropped: self.part(turned.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(turned: f64, arrivals: &[f64]) -> Vec<f64> {
        let turned = Ratio::new(turned).unwrap();
        let places = places(arrivals).into_iter();
        places.map(|place| place.part(turned).get()).collect()
    }

    #[test]
    fn the_lowest_class_loses_everyone_before_the_next_loses_anyone() {
        let arrivals = [60.0, 30.0, 10.0];
        assert_eq!(parts(0.0, &arrivals), [0.0, 0.0, 0.0]);
        assert_eq!(parts(0.3, &arrivals), [0.5, 0.0, 0.0]);
        assert_eq!(parts(0.6, &arrivals), [1.0, 0.0, 0.0]);
        assert_eq!(parts(0.75, &arrivals), [1.0, 0.5, 0.0]);
        let last = parts(0.95, &arrivals);
        assert_eq!(last[..2], [1.0, 1.0]);
        assert!((last[2] - 0.5).abs() < 1e-9, "{last:?}");
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
        let classes = places(&[1.0, 1.0])
            .into_iter()
            .map(|place| place.of(turned));
        let classes: Vec<Turned> = classes.collect();
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
            let turned = Ratio::saturating(turned);
            let part = |place: &Place| place.part(turned).get();
            prop_assert!(places(&arrivals).iter().all(|place| (0.0..=1.0).contains(&part(place))));
        }
    }
}
