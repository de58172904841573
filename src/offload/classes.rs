//! Classes of visitors: who is turned away last, and who first.
//!
//! A class is lifted only by what nobody can make up: an identity that a trusted proxy or a signature vouches for, a
//! header from a trusted proxy. A path may be named by anyone, since it is what is asked for: so it lifts the request
//! for it, and no other. (For the same reason who was let in by it stays in for requests of its class and above alone:
//! see `stay`.)

use globset::{Glob, GlobMatcher, GlobSet};
use http::{HeaderMap, HeaderName};

use super::settings::{ClassSettings, IdentitySettings, OffloadSettings};
use crate::{problem::Problem, rewrite, servers::Client};

/// What those are called who belong to no class.
pub(super) const REST: &str = "default";
/// Their priority.
const REST_PRIORITY: i32 = 0;

/// The classes, lowest first, and among them whoever belongs to none; nothing where no class is configured.
#[derive(Debug, Default)]
pub(super) struct Classes {
    classes: Vec<Class>,
    /// The position of who belongs to none.
    rest: usize,
    /// The position of the highest to which a connection may belong that is not a trusted proxy's.
    without_proxy: usize,
}

/// One class.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) priority: i32,
    /// What a request has to have, all of it; nothing: whoever belongs to no other class.
    wants: Wants,
}

#[derive(Debug, Default)]
struct Wants {
    paths: Option<GlobSet>,
    identity: Option<GlobMatcher>,
    header: Option<(HeaderName, Option<GlobMatcher>)>,
    /// Only a trusted proxy can say whether a request has it.
    proxy: bool,
}

/// What of a request decides about its class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applying<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The connection comes from a trusted proxy.
    pub(super) trusted: bool,
}

// === impl Classes ===

impl Classes {
    /// Of `throttle.classes`; what else they need is `primary.trusted_proxies` and `offload`.
    pub(super) fn new(
        settings: &[ClassSettings],
        trusted_proxies: &[String],
        offload: &OffloadSettings,
        problems: &mut Vec<Problem>,
    ) -> Self {
        if settings.is_empty() {
            return Self::default();
        }
        let mut classes: Vec<Class> = settings
            .iter()
            .enumerate()
            .map(|(index, class)| {
                let key = format!("throttle.classes[{index}]");
                check_name(class, &settings[..index], &key, problems);
                Class {
                    name: class.name.clone(),
                    priority: class.priority,
                    wants: Wants::new(class, &key, trusted_proxies, offload, problems),
                }
            })
            .collect();
        classes.push(Class {
            name: REST.to_owned(),
            priority: REST_PRIORITY,
            wants: Wants::default(),
        });
        // Stable: of two with one priority the first in the file counts, so it has to stand above.
        classes.reverse();
        classes.sort_by_key(|class| class.priority);
        Self {
            rest: classes
                .iter()
                .position(|class| class.name == REST)
                .unwrap_or_default(),
            without_proxy: classes
                .iter()
                .rposition(|class| !class.wants.proxy)
                .unwrap_or_default(),
            classes,
        }
    }

    /// Whether none is configured.
    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// All of them, lowest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Class> {
        self.classes.iter()
    }

    /// The position of the highest to which a connection may belong that is not a trusted proxy's.
    pub(super) const fn highest_without_proxy(&self) -> usize {
        self.without_proxy
    }

    /// The position of the highest class that the request belongs to.
    pub(super) fn of(&self, asked: Applying<'_>) -> usize {
        let fits = |class: &Class| class.wants.anything() && class.wants.fit(asked);
        self.classes.iter().rposition(fits).unwrap_or(self.rest)
    }

    /// The priority of the class at `position`.
    pub(super) fn priority(&self, position: usize) -> i32 {
        self.classes
            .get(position)
            .map_or(REST_PRIORITY, |class| class.priority)
    }

    /// What each class loses, if so much of all is lost: `by_priority` tells it for the arrivals of each priority.
    /// (Classes of one priority are turned away together.)
    pub(super) fn by_priority<T: Clone>(
        &self,
        arrivals: &[f64],
        by_priority: impl FnOnce(&[f64]) -> Vec<T>,
    ) -> Vec<T> {
        let mut joined: Vec<f64> = Vec::with_capacity(self.classes.len());
        let mut places = Vec::with_capacity(self.classes.len());
        let mut last = None;
        for (class, arrivals) in self.classes.iter().zip(arrivals) {
            if last == Some(class.priority)
                && let Some(joined) = joined.last_mut()
            {
                *joined += arrivals;
            } else {
                joined.push(*arrivals);
            }
            last = Some(class.priority);
            places.push(joined.len() - 1);
        }
        let parts = by_priority(&joined);
        places
            .into_iter()
            .filter_map(|place| parts.get(place).cloned())
            .collect()
    }
}

fn check_name(
    class: &ClassSettings,
    before: &[ClassSettings],
    key: &str,
    problems: &mut Vec<Problem>,
) {
    let name = &class.name;
    let key = format!("{key}.name");
    if name.is_empty() {
        problems.push(Problem::new(key, "must be given"));
    } else if name == REST {
        problems.push(Problem::new(
            key,
            format_args!("must not be {REST:?}: so those are called who belong to no class"),
        ));
    } else if let Some(first) = before.iter().position(|other| other.name == *name) {
        problems.push(Problem::new(
            key,
            format_args!(
                "must be unlike every other class's, found {name:?} at `throttle.classes[{first}]` too"
            ),
        ));
    }
}

// === impl Wants ===

impl Wants {
    fn new(
        class: &ClassSettings,
        key: &str,
        trusted_proxies: &[String],
        offload: &OffloadSettings,
        problems: &mut Vec<Problem>,
    ) -> Self {
        if class.paths.is_empty() && class.identity.is_none() && class.header.is_none() {
            problems.push(Problem::new(
                key,
                "must have `paths`, `identity` or `header`",
            ));
        }
        let paths = rewrite::globs(&format!("{key}.paths"), &class.paths);
        let paths = paths.unwrap_or_else(|errors| {
            let errors = errors.into_iter();
            problems.extend(errors.map(|error| Problem::new(error.key, error.message)));
            GlobSet::empty()
        });
        let identity_by_header = || {
            let identity = offload.identity.as_ref();
            identity.is_some_and(|identity| identity.header.is_some())
        };
        Self {
            proxy: class.header.is_some() || (class.identity.is_some() && identity_by_header()),
            paths: (!class.paths.is_empty()).then_some(paths),
            identity: class.identity.as_ref().and_then(|pattern| {
                let key = format!("{key}.identity");
                if let Some(lack) = unproven(offload.identity.as_ref(), trusted_proxies) {
                    problems.push(Problem::new(&*key, lack));
                }
                glob(pattern, &key, "a glob such as \"gold-*\"", problems)
            }),
            header: class
                .header
                .as_ref()
                .and_then(|text| header(text, &format!("{key}.header"), trusted_proxies, problems)),
        }
    }

    /// Those that want nothing belong to no class.
    const fn anything(&self) -> bool {
        self.paths.is_some() || self.identity.is_some() || self.header.is_some()
    }

    fn fit(&self, asked: Applying<'_>) -> bool {
        let path = || asked.path.strip_prefix('/').unwrap_or(asked.path);
        self.paths
            .as_ref()
            .is_none_or(|paths| paths.is_match(path()))
            && self.identity.as_ref().is_none_or(|glob| {
                let identity = asked.client.identity;
                identity.is_some_and(|identity| glob.is_match(identity))
            })
            && self.header.as_ref().is_none_or(|(name, glob)| {
                let value = || only(asked.headers, name);
                asked.trusted
                    && value()
                        .is_some_and(|value| glob.as_ref().is_none_or(|glob| glob.is_match(value)))
            })
    }
}

/// Why an identity would be believed that anybody can make up, or nobody's: what is lacking.
fn unproven(
    identity: Option<&IdentitySettings>,
    trusted_proxies: &[String],
) -> Option<&'static str> {
    match identity {
        None => Some("needs `offload.identity`: without it nobody has an identity"),
        Some(identity) if identity.cookie.is_some() => {
            identity.key.as_ref().is_none_or(String::is_empty).then_some(
                "needs `offload.identity.key`: a cookie that is not signed can be made up by anybody",
            )
        }
        Some(_) => trusted_proxies.is_empty().then_some(
            "needs `primary.trusted_proxies`: the header of `offload.identity` is believed from them only",
        ),
    }
}

/// `x-plan`, or `x-plan: gold*`.
fn header(
    text: &str,
    key: &str,
    trusted_proxies: &[String],
    problems: &mut Vec<Problem>,
) -> Option<(HeaderName, Option<GlobMatcher>)> {
    if trusted_proxies.is_empty() {
        problems.push(Problem::new(
            key,
            "needs `primary.trusted_proxies`: a header is believed from them only",
        ));
    }
    let (name, pattern) = match text.split_once(':') {
        Some((name, pattern)) => (name.trim(), Some(pattern.trim())),
        None => (text.trim(), None),
    };
    let pattern =
        pattern.map(|pattern| glob(pattern, key, "a header such as \"x-plan: gold*\"", problems));
    let Ok(name) = name.parse() else {
        problems.push(Problem::new(
            key,
            format_args!(
                "must be a header such as \"x-plan\" or \"x-plan: gold*\", found {text:?}"
            ),
        ));
        return None;
    };
    match pattern {
        Some(pattern) => pattern.map(|pattern| (name, Some(pattern))),
        None => Some((name, None)),
    }
}

fn glob(
    pattern: &str,
    key: &str,
    expected: &str,
    problems: &mut Vec<Problem>,
) -> Option<GlobMatcher> {
    let error = match Glob::new(pattern) {
        Ok(_) if pattern.is_empty() => "it is empty".to_owned(),
        Ok(glob) => return Some(glob.compile_matcher()),
        Err(error) => error.to_string(),
    };
    problems.push(Problem::new(
        key,
        format_args!("must be {expected}: {error}"),
    ));
    None
}

/// The header's value, if it is there once and not empty: of two, one may be the visitor's own, which its proxy let
/// stand.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

#[cfg(test)]
#[path = "classes_tests.rs"]
mod tests;
