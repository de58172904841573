//! `Range` (RFC 9110 section 14): which parts of a file are asked for.
//!
//! Several parts are answered where that is less than the file. What would only multiply the work gets the
//! whole file, as section 14.2 allows: more than [`MOST`] parts, parts that overlap, parts that are together
//! as long as the file.

use std::ops::RangeInclusive;

/// More parts than that are answered with the whole file.
const MOST: usize = 16;

/// From the first byte to the last, both within the file.
pub(super) type Part = RangeInclusive<u64>;

/// What is asked for of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: another unit, or more parts than make sense.
    Whole,
    /// One part.
    Part(Part),
    /// Several, in the order in which they were asked for.
    Parts(Vec<Part>),
    /// Nothing of what is asked for is there (416).
    Nothing,
}

/// One member of the list, before the file's length is known.
#[derive(Debug, Clone, Copy)]
enum Spec {
    From(u64, u64),
    Last(u64),
}

/// Reads the value of `Range` for a file of `length` bytes. What is no list of ranges is answered like one that asks for
/// nothing that is there.
pub(super) fn asked(value: &[u8], length: u64) -> Asked {
    const UNIT: &[u8] = b"bytes=";
    let Some((unit, list)) = value.split_at_checked(UNIT.len()) else {
        return Asked::Whole;
    };
    if !unit.eq_ignore_ascii_case(UNIT) {
        return Asked::Whole;
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut count = 0;
    for member in list.split(|byte| *byte == b',') {
        let member = member.trim_ascii();
        // A list may have empty members (RFC 9110 section 5.6.1.2).
        if member.is_empty() {
            continue;
        }
        count += 1;
        if count > MOST {
            return Asked::Whole;
        }
        let Some(spec) = spec(member) else {
            return Asked::Nothing;
        };
        parts.extend(spec.within(length));
    }
    match &parts[..] {
        [] => Asked::Nothing,
        [part] => Asked::Part(part.clone()),
        _ if are_absurd(&parts, length) => Asked::Whole,
        _ => Asked::Parts(parts),
    }
}

/// How many bytes a part has.
pub(super) fn size(part: &Part) -> u64 {
    part.end() - part.start() + 1
}

fn are_absurd(parts: &[Part], length: u64) -> bool {
    let overlap =
        |one: &Part, other: &Part| one.start() <= other.end() && other.start() <= one.end();
    let overlapping = parts
        .iter()
        .enumerate()
        .any(|(index, part)| parts[..index].iter().any(|other| overlap(part, other)));
    overlapping || parts.iter().map(size).sum::<u64>() >= length
}

fn spec(member: &[u8]) -> Option<Spec> {
    let dash = member.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&member[..dash], &member[dash + 1..]);
    if first.is_empty() {
        return number(last).map(Spec::Last);
    }
    let first = number(first)?;
    let last = match last {
        [] => u64::MAX,
        last => number(last)?,
    };
    (first <= last).then_some(Spec::From(first, last))
}

/// What is too large to be a number is beyond every end.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| {
        digits.iter().fold(0_u64, |number, digit| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        })
    })
}

// === impl Spec ===

impl Spec {
    /// What of it is there.
    fn within(self, length: u64) -> Option<Part> {
        let end = length.checked_sub(1)?;
        match self {
            Self::From(first, last) => (first <= end).then(|| first..=last.min(end)),
            Self::Last(count) => (count > 0).then(|| length.saturating_sub(count)..=end),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tells_parts_from_nonsense() {
        let part = |first, last| Asked::Part(first..=last);
        for (value, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-3", part(2, 3)),
            ("Bytes= 2-3 ,", part(2, 3)),
            ("bytes=7-", part(7, 9)),
            ("bytes=-4", part(6, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=8-99999999999999999999999", part(8, 9)),
            ("bytes=0-1,20-30", part(0, 1)),
            ("bytes=0-1, 4-5", Asked::Parts(vec![0..=1, 4..=5])),
            ("bytes=4-5,,0-1,", Asked::Parts(vec![4..=5, 0..=1])),
            ("bytes=0-1,-1", Asked::Parts(vec![0..=1, 9..=9])),
            ("bytes=0-3,3-4", Asked::Whole),
            ("bytes=0-0,0-0", Asked::Whole),
            ("bytes=0-4,5-9", Asked::Whole),
            ("bytes=0-,-1", Asked::Whole),
            ("items=0-1", Asked::Whole),
            ("", Asked::Whole),
            ("bytes", Asked::Whole),
            ("bytes=", Asked::Nothing),
            ("bytes=,", Asked::Nothing),
            ("bytes=10-", Asked::Nothing),
            ("bytes=10-11,12-", Asked::Nothing),
            ("bytes=99999999999999999999999-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-2", Asked::Nothing),
            ("bytes=0-1,x", Asked::Nothing),
            ("bytes=--1", Asked::Nothing),
            ("bytes=1-2-3", Asked::Nothing),
            ("bytes=+1-2", Asked::Nothing),
            ("bytes=1 - 2", Asked::Nothing),
            ("bytes=-", Asked::Nothing),
        ] {
            assert_eq!(asked(value.as_bytes(), 10), expected, "{value}");
        }
        assert_eq!(asked(b"bytes=0-", 0), Asked::Nothing);
        assert_eq!(asked(b"bytes=-1", 0), Asked::Nothing);
        let last = u64::MAX - 1;
        assert_eq!(asked(b"bytes=0-", u64::MAX), part(0, last));
    }

    #[test]
    fn sixteen_parts_and_no_more() {
        let list = |count: u64| {
            let parts: Vec<_> = (0..count).map(|at| format!("{0}-{0}", at * 2)).collect();
            format!("bytes={}", parts.join(","))
        };
        let parts = (0..16).map(|at| at * 2..=at * 2).collect();
        assert_eq!(asked(list(16).as_bytes(), 1000), Asked::Parts(parts));
        assert_eq!(asked(list(17).as_bytes(), 1000), Asked::Whole);
        assert_eq!(asked(list(100_000).as_bytes(), 1000), Asked::Whole);
    }

    /// The members of a list, most of them sensible.
    fn members() -> impl Strategy<Value = Vec<(Option<u64>, Option<u64>)>> {
        let number = || prop::option::weighted(0.8, prop_oneof![0..120_u64, any::<u64>()]);
        prop::collection::vec((number(), number()), 1..20)
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(value in prop::collection::vec(any::<u8>(), 0..60), length: u64) {
            let mut value = value;
            for prefix in [&b""[..], b"bytes="] {
                value.splice(0..0, prefix.iter().copied());
                asked(&value, length);
            }
        }

        #[test]
        fn parts_are_within_the_file_and_what_was_asked_for(members in members(), length in 0..100_u64) {
            let text = |number: &Option<u64>| number.map_or(String::new(), |number| number.to_string());
            let list: Vec<_> = members
                .iter()
                .map(|(first, last)| format!("{}-{}", text(first), text(last)))
                .collect();
            // Byte by byte, as RFC 9110 section 14.1.2 has it.
            let wanted = |byte: u64| {
                members.iter().any(|member| match *member {
                    (Some(first), Some(last)) => (first..=last).contains(&byte),
                    (Some(first), None) => byte >= first,
                    (None, Some(count)) => byte >= length.saturating_sub(count),
                    (None, None) => false,
                })
            };
            let parts = match asked(format!("bytes={}", list.join(",")).as_bytes(), length) {
                Asked::Part(part) => vec![part],
                Asked::Parts(parts) => {
                    prop_assert!(parts.len() > 1 && parts.iter().map(size).sum::<u64>() < length);
                    parts
                }
                Asked::Nothing => {
                    let is_broken = |(first, last): &(Option<u64>, Option<u64>)| match (first, last) {
                        (Some(first), Some(last)) => first > last,
                        (first, last) => first.is_none() && last.is_none(),
                    };
                    let nothing = (0..length).all(|byte| !wanted(byte));
                    prop_assert!(nothing || members.iter().any(is_broken));
                    return Ok(());
                }
                Asked::Whole => {
                    prop_assert!(members.len() > 1);
                    return Ok(());
                }
            };
            for byte in 0..length {
                let given = parts.iter().filter(|part| part.contains(&byte)).count();
                prop_assert_eq!(given, usize::from(wanted(byte)), "byte {} of {:?}", byte, list);
            }
            prop_assert!(parts.iter().all(|part| *part.end() < length));
        }
    }
}
