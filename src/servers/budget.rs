//! What may be spent on a server.
//!
//! A budget is for an hour, a day or a month of the calendar (UTC). What is spent is the price of what was
//! promised: known at once, and never less than what the server's owner will count, since browsers fetch less
//! than a page's weight. Over the budget the server gets no work, until the next period begins. The account is
//! kept in memory: a process that starts anew begins a new one.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::units::Price;

/// `budget`: an amount for a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BudgetSettings {
    /// How much, in the currency of `price`. Above 0. Must be given.
    pub amount: f64,
    /// For which time. Default: day.
    pub per: Period,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            amount: 0.0,
            per: Period::Day,
        }
    }
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// From a full hour to the next.
    Hour,
    /// From midnight to midnight.
    #[default]
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// What was spent in the current period.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// The period's number, and what had been promised in all when it began.
    period: Option<(u64, u64)>,
}

// === impl Period ===

impl Period {
    /// The name in configuration and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Counts periods: the same number within one, a greater one in each that comes later.
    fn number(self, wall: SystemTime) -> u64 {
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let days = since.as_secs() / 86_400;
        match self {
            Self::Hour => since.as_secs() / 3600,
            Self::Day => days,
            Self::Month => month(days),
        }
    }
}

/// The months from the year 0 to the day that is `days` after 1970-01-01 ([days to civil], with years that begin
/// in March, so that the leap day is the last of its year).
///
/// [days to civil]: https://howardhinnant.github.io/date_algorithms.html#civil_from_days
const fn month(days: u64) -> u64 {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    (era * 400 + year_of_era) * 12 + (5 * day_of_year + 2) / 153
}

// === impl Account ===

impl Account {
    /// What was spent in the period of `wall`, when `bytes` were promised in all.
    pub(super) fn spent(
        &mut self,
        bytes: u64,
        price: Price,
        period: Period,
        wall: SystemTime,
    ) -> f64 {
        let number = period.number(wall);
        // A clock that is set back begins no new period.
        let (_, before) = match self.period {
            Some(current) if number <= current.0 => current,
            _ => *self.period.insert((number, bytes)),
        };
        price.of(bytes.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_new_period_begins_a_new_account() {
        let price = Price::new(1.0).unwrap();
        let mut account = Account::default();
        let mut spent = |gigabytes: u64, wall| {
            account.spent(gigabytes * 1_000_000_000, price, Period::Day, wall)
        };
        assert_eq!(spent(5, at(DAY)), 0.0, "what was before is not counted");
        assert_eq!(spent(7, at(2 * DAY - 1)), 2.0);
        assert_eq!(spent(8, at(2 * DAY)), 0.0);
        assert_eq!(spent(9, at(2 * DAY + 5)), 1.0);
        assert_eq!(spent(10, at(2 * DAY - 5)), 2.0, "a clock that is set back");
        assert_eq!(spent(11, at(9 * DAY)), 0.0);
    }

    #[test]
    fn months_begin_on_their_first() {
        // (year, month, day) of the last day of a month, in days since 1970.
        for (last, what) in [
            (30, "1970-01-31"),
            (58, "1970-02-28"),
            (789, "1972-02-29"),
            (11_016, "2000-02-29"),
            (364, "1970-12-31"),
            (20_422, "2025-11-30"),
            (47_540, "2100-02-28"),
        ] {
            assert_eq!(month(last - 27), month(last), "{what}");
            assert_eq!(month(last) + 1, month(last + 1), "{what}");
        }
    }

    #[test]
    fn periods_count_up() {
        for period in [Period::Hour, Period::Day, Period::Month] {
            let mut last = 0;
            for hour in 0..24 * 400 {
                let number = period.number(at(1_700_000_000 + hour * 3600));
                assert!(number == last || number == last + 1 || last == 0);
                last = number;
            }
        }
        assert!(Period::Month.number(at(1_700_000_000)) < Period::Month.number(at(1_703_000_000)));
    }
}
