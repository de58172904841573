//! `[primary.tls]` and `[edge.tls]`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;
#[cfg(test)]
use crate::units;

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
    /// The port that it names is the one at which TLS is listened to.
    /// Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<units::AddressText>"))]
    pub redirect: Option<SocketAddr>,
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
