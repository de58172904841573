//! How often a wrong token may be shown.
//!
//! After [`MOST`] wrong ones within a minute an address is not listened to until the minute is over, whatever it
//! shows: else a token could be guessed by trying. Of an IPv6 address the first 64 bits count.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// So many wrong tokens are heard from an address in a minute.
const MOST: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// So many addresses are remembered; beyond them all others count as one.
const ADDRESSES: usize = 1_000;

/// The wrong tokens of the last minute, by address.
#[derive(Debug, Default)]
pub(super) struct Tries(HashMap<u64, (Instant, u32)>);

// === impl Tries ===

impl Tries {
    /// How long `address` is not listened to yet.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let (begun, wrong) = self.0.get(&self.key(address))?;
        let left = MINUTE.checked_sub(now.saturating_duration_since(*begun))?;
        (*wrong >= MOST && !left.is_zero()).then_some(left)
    }

    /// It has shown a wrong token.
    pub(super) fn wrong(&mut self, address: IpAddr, now: Instant) {
        let is_over = |begun: Instant| now.saturating_duration_since(begun) >= MINUTE;
        if self.0.len() >= ADDRESSES {
            self.0.retain(|_, (begun, _)| !is_over(*begun));
        }
        let (begun, wrong) = self.0.entry(self.key(address)).or_insert((now, 0));
        if is_over(*begun) {
            (*begun, *wrong) = (now, 0);
        }
        *wrong = wrong.saturating_add(1);
    }

    fn key(&self, address: IpAddr) -> u64 {
        const OTHERS: u64 = u64::MAX;
        let key = match address.to_canonical() {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        match self.0.len() >= ADDRESSES && !self.0.contains_key(&key) {
            true => OTHERS,
            false => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_ten_wrong_tokens_an_address_waits_until_the_minute_is_over() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..MOST {
            assert_eq!(tries.wait(one, at(10)), None);
            tries.wrong(one, at(10));
        }
        assert_eq!(tries.wait(one, at(20)), Some(Duration::from_secs(50)));
        assert_eq!(tries.wait(other, at(20)), None);
        assert_eq!(tries.wait(one, at(70)), None);
        tries.wrong(one, at(70));
        assert_eq!(tries.wait(one, at(70)), None, "a new minute");
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for host in 0..MOST {
            tries.wrong(address(&format!("2001:db8::{host}")), now);
        }
        assert!(tries.wait(address("2001:db8::ffff"), now).is_some());
        assert!(tries.wait(address("2001:db8:0:1::1"), now).is_none());
    }

    #[test]
    fn however_many_come_a_thousand_are_remembered() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for number in 0..5_000_u32 {
            tries.wrong(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(tries.0.len() <= ADDRESSES + 1, "{}", tries.0.len());
        assert!(
            tries.wait(address("203.0.113.77"), now).is_some(),
            "all others as one"
        );
    }
}
