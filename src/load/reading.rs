//! From what signals say to what the level goes by: smoothed, and with a reason where there is
//! nothing. Pure: the thread that asks the signals is in [`sampler`](super::sampler).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{SignalError, ewma::Ewma, settings::Thresholds};
use crate::units::Ratio;

/// What is known of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The signal's name, as metrics and status show it.
    pub name: Arc<str>,
    /// The loads at which it asks for each level.
    pub thresholds: Thresholds,
    /// What it said last; none before its first reading and while it is off.
    pub raw: Option<Ratio>,
    /// The moving average of that; none before its first reading and while it is off.
    pub load: Option<Ratio>,
    /// Why it is off, if it is.
    pub off: Option<Arc<str>>,
}

/// What has become of a signal with its last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is on, or off, as before.
    None,
    /// It could be read, or had not been tried yet, and now it can't be read.
    WentOff,
    /// It can be read again.
    CameBack,
}

/// One signal's reading, kept up from sample to sample.
#[derive(Debug)]
pub(super) struct Track {
    reading: Reading,
    average: Ewma,
}

impl Track {
    /// Loads above this enter the average as this. No level cares how far above its threshold a
    /// load is, but the average takes a time to come down that grows with it.
    const MOST: f64 = 100.0;

    pub(super) fn new(name: Arc<str>, thresholds: Thresholds, smoothing: Duration) -> Self {
        Self {
            reading: Reading {
                name,
                thresholds,
                raw: None,
                load: None,
                off: None,
            },
            average: Ewma::new(smoothing),
        }
    }

    pub(super) const fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.reading.thresholds = thresholds;
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Takes in what the signal said at `now`.
    pub(super) fn observe(
        &mut self,
        sample: Result<Option<Ratio>, SignalError>,
        now: Instant,
    ) -> Change {
        match sample {
            Err(error) => self.off(error.to_string().into()),
            Ok(sample) => {
                if let Some(raw) = sample {
                    let average = self.average.update(raw.get().min(Self::MOST), now);
                    self.reading.raw = Some(raw);
                    self.reading.load = Some(Ratio::saturating(average));
                }
                match self.reading.off.take() {
                    Some(_) => Change::CameBack,
                    None => Change::None,
                }
            }
        }
    }

    /// Switches the signal off for a reason, until it says something.
    pub(super) fn off(&mut self, reason: Arc<str>) -> Change {
        // After the gap the average would be that of another time.
        self.average.reset();
        self.reading.raw = None;
        self.reading.load = None;
        match self.reading.off.replace(reason) {
            Some(_) => Change::None,
            None => Change::WentOff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn track() -> Track {
        Track::new("cpu".into(), Thresholds::standard(), SECOND)
    }

    fn says(load: f64) -> Result<Option<Ratio>, SignalError> {
        Ok(Ratio::new(load))
    }

    fn fails() -> Result<Option<Ratio>, SignalError> {
        Err(SignalError::new("no such file"))
    }

    #[test]
    fn smooths_what_is_said_and_keeps_it_beside_the_average() {
        let start = Instant::now();
        let mut track = track();
        track.observe(says(0.0), start);
        track.observe(says(1.0), start + SECOND);
        let reading = track.reading();
        assert_eq!(reading.raw, Some(Ratio::ONE));
        let load = reading.load.unwrap().get();
        assert!((load - 0.632).abs() < 0.001, "{load}");
    }

    #[test]
    fn a_sample_without_a_reading_leaves_the_last_one() {
        let start = Instant::now();
        let mut track = track();
        assert_eq!(track.observe(Ok(None), start), Change::None);
        assert_eq!((track.reading().load, &track.reading().off), (None, &None));
        track.observe(says(0.5), start);
        track.observe(says(0.5), start + SECOND);
        let before = track.reading().load;
        track.observe(Ok(None), start + 2 * SECOND);
        assert_eq!(track.reading().load, before);
        assert_eq!(track.reading().raw, Ratio::new(0.5));
    }

    #[test]
    fn a_signal_that_fails_is_off_with_a_reason_until_it_is_read_again() {
        let start = Instant::now();
        let mut track = track();
        track.observe(says(0.9), start);
        assert_eq!(track.observe(fails(), start), Change::WentOff);
        assert_eq!(track.observe(fails(), start), Change::None);
        let reading = track.reading();
        assert_eq!((reading.raw, reading.load), (None, None));
        assert_eq!(reading.off.as_deref(), Some("no such file"));
        assert_eq!(track.observe(Ok(None), start), Change::CameBack);
        assert_eq!(track.observe(says(0.2), start + SECOND), Change::None);
        assert_eq!(track.reading().raw, Ratio::new(0.2));
        let load = track.reading().load;
        assert_eq!(load, Some(Ratio::ZERO), "not smoothed across the gap");
    }

    #[test]
    fn comes_down_soon_from_an_absurd_load() {
        let start = Instant::now();
        let mut track = track();
        track.observe(Ok(Some(Ratio::saturating(f64::INFINITY))), start);
        track.observe(says(0.0), start + 10 * SECOND);
        let load = track.reading().load.unwrap().get();
        assert!(load < 0.01, "{load}");
    }
}
