//! `[admin]`: where the operator looks.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Where status, metrics and overrides are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where it listens. Any other address than loopback needs a token. Default: `127.0.0.1:9901`.
    #[cfg_attr(test, schemars(with = "crate::units::AddressText"))]
    pub listen: SocketAddr,
    /// What `Authorization: Bearer …` must show: letters, digits, signs and spaces of ASCII, with no space at its ends.
    /// Default: nothing need be shown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9901)),
            token: String::new(),
        }
    }
}

impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token belongs in no log.
        f.debug_struct("AdminSettings")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl AdminSettings {
    /// Appends what is wrong: an address that others reach, without a token; one that can't be shown.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        if self.token.is_empty() && !self.listen.ip().to_canonical().is_loopback() {
            problems.push(Problem::new(
                "admin.token",
                format_args!(
                    "must be given where `admin.listen` is not a loopback address, found {}",
                    self.listen
                ),
            ));
        }
        let is_shown = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if self.token.trim() != self.token || !self.token.bytes().all(is_shown) {
            problems.push(Problem::new(
                "admin.token",
                "must be of letters, digits, signs and spaces of ASCII, with no space at its ends: it is shown in a header",
            ));
        }
    }
}
