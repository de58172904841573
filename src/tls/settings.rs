//! `[primary.tls]` and `[edge.tls]`.

use std::{
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{problem::Problem, units};

/// Ten years: nobody who wants more means it.
const LONGEST_HSTS: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The certificates of a listener. It speaks TLS 1.3 and 1.2, and HTTP/2 or HTTP/1.1 as the client wishes. New files take
/// the place of the old ones within a second or two, without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The file of the certificate, and after it of those between it and the root (PEM). Must be given.
    #[cfg_attr(test, schemars(with = "units::PathText"))]
    pub certificate: PathBuf,
    /// The file of its private key (PEM: PKCS #8, PKCS #1 or SEC 1), without a passphrase. Must be given.
    #[cfg_attr(test, schemars(with = "units::PathText"))]
    pub key: PathBuf,
    /// Further certificates. Each is for the names that it carries (`subjectAltName`); who asks for another name, or for
    /// none, gets the first certificate. Of several for one name a client gets the first that it can use. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<PairSettings>,
    /// Where requests without TLS are answered by a redirect (308) to the same page over https, such as `0.0.0.0:80`.
    /// Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::AddressText>"))]
    pub redirect: Option<SocketAddr>,
    /// The port to which it redirects, where that is not the one at which TLS is listened to: such as 443, where something
    /// before this program hands on what comes there. From 1 to 65535. Default: the port at which TLS is listened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_port: Option<NonZeroU16>,
    /// For how long browsers that have seen an answer over TLS come back over https alone (`Strict-Transport-Security`, RFC
    /// 6797), such as `365d`: whatever happens to the certificate, there is no way around it for them. `0s`: no longer, for
    /// those that were told otherwise before. What an upstream says of it stays as it says it. From 0s to `3650d`, in
    /// whole seconds. Default: nothing is said.
    #[serde(
        with = "units::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<units::DurationText>"))]
    pub hsts: Option<Duration>,
}

/// `[[primary.tls.more]]`: a further certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PairSettings {
    /// As `certificate` above. Must be given.
    #[cfg_attr(test, schemars(with = "units::PathText"))]
    pub certificate: PathBuf,
    /// As `key` above. Must be given.
    #[cfg_attr(test, schemars(with = "units::PathText"))]
    pub key: PathBuf,
}

// === impl TlsSettings ===

impl TlsSettings {
    /// Appends what is wrong, with `section` before each key. The files are not looked at.
    pub fn check(&self, section: &str, problems: &mut Vec<Problem>) {
        for (section, certificate, key) in self.pairs(section) {
            for (name, path) in [("certificate", certificate), ("key", key)] {
                if path.as_os_str().is_empty() {
                    let message = "must be the path of a PEM file, found none";
                    problems.push(Problem::new(format!("{section}.{name}"), message));
                }
            }
        }
        if self.redirect_port.is_some() && self.redirect.is_none() {
            problems.push(Problem::new(
                format!("{section}.redirect_port"),
                format_args!("is for the redirect of `{section}.redirect`, which is not given"),
            ));
        }
        if self
            .hsts
            .is_some_and(|time| time > LONGEST_HSTS || time.subsec_nanos() != 0)
        {
            let message = "must be from 0s to 3650d, in whole seconds";
            problems.push(Problem::new(format!("{section}.hsts"), message));
        }
    }

    /// Each certificate's section, certificate and key: the first one first.
    pub(super) fn pairs<'a>(
        &'a self,
        section: &'a str,
    ) -> impl Iterator<Item = (String, &'a Path, &'a Path)> {
        let first = (section.to_owned(), &*self.certificate, &*self.key);
        let more = self.more.iter().enumerate().map(move |(index, pair)| {
            let section = format!("{section}.more[{index}]");
            (section, &*pair.certificate, &*pair.key)
        });
        std::iter::once(first).chain(more)
    }
}
