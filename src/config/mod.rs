//! One file, the environment, and every problem at once.
//!
//! ```text
//! defaults ◄── file (TOML) ◄── OVERSPILL__SECTION__KEY ──► tree ──► Settings ──► checks across keys
//! ```
//!
//! Serde stops at the first thing it can't read. So the tree is read again and again, each time without the
//! value that was wrong, until what is left can be read: that gives every problem, each with its key.

mod check;
mod primary;
#[cfg(all(test, feature = "server"))]
mod reference;
#[cfg(test)]
mod schema;
mod tree;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

#[cfg(feature = "server")]
use crate::{access::AccessSettings, edge::EdgeSettings};
use crate::{
    admin::AdminSettings,
    load,
    offload::{Compiled, DropSettings, Mode, OffloadSettings, Parts, ThrottleSettings},
    problem::Problem,
    rewrite,
    servers::ServerSettings,
};

pub use self::primary::PrimarySettings;

/// Where the configuration is when nobody says where.
pub const DEFAULT_PATH: &str = "config/overspill.toml";
/// Names the file.
pub const PATH_VARIABLE: &str = "OVERSPILL_CONFIG";

/// The whole configuration. `config/overspill.toml` explains every key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(all(test, feature = "server"), derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How far the layer goes. Default: enforce.
    pub mode: Mode,
    /// Whether answers carry in `x-overspill` what was decided, and why. It tells every visitor: for tests, and for
    /// looking into something. Default: false.
    pub explain_header: bool,
    /// Whether answers carry in `Server-Timing` (W3C Server Timing) what was decided and how long that, the site or
    /// upstream, and all of it until the head of the answer took, in milliseconds. It tells every visitor. Not on pulls
    /// by offload servers. Default: false.
    pub server_timing: bool,
    /// The server that owns the site: what is served, and where.
    pub primary: PrimarySettings,
    /// How load is measured, and from which load on what is done. A signal is a load, used / capacity; the highest level
    /// that any of them asks for is the level. The three thresholds of a signal belong together: where some of them are
    /// given, the level of one that is left out is never entered.
    pub load: load::Settings,
    /// When objects are linked elsewhere, and where to.
    pub offload: OffloadSettings,
    /// Which links move.
    pub rewrite: rewrite::Settings,
    /// Who is turned away, and how.
    pub throttle: ThrottleSettings,
    /// How a connection is closed unanswered.
    pub drop: DropSettings,
    /// For `overspill edge`, an offload server of our own. It reads this part, `[load]` and `[admin]`.
    #[cfg(feature = "server")]
    pub edge: EdgeSettings,
    /// Of no use without the program; one file may serve both.
    #[cfg(not(feature = "server"))]
    #[doc(hidden)]
    #[serde(skip_serializing)]
    pub edge: serde::de::IgnoredAny,
    /// A line for every request. `overspill serve` and `overspill edge` write it.
    #[cfg(feature = "server")]
    pub access_log: AccessSettings,
    /// Of no use without the program.
    #[cfg(not(feature = "server"))]
    #[doc(hidden)]
    #[serde(skip_serializing)]
    pub access_log: serde::de::IgnoredAny,
    /// Where the operator looks: dashboard, status, metrics and overrides.
    pub admin: AdminSettings,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, where there is one.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// The servers of a file of `offload.discovery`.
///
/// # Errors
/// Every problem, each with its key.
pub fn servers_in(text: &str) -> Result<Vec<ServerSettings>, Vec<Problem>> {
    let tree = tree::servers(tree::read_text(text).map_err(|problem| vec![problem])?)?;
    let (settings, problems) = Settings::from_tree(Ok(tree));
    if problems.is_empty() {
        return Ok(settings.offload.servers);
    }
    let in_file = |problem: Problem| {
        let own = |text: &str| text.replace("offload.servers", "servers");
        Problem::new(own(&problem.key), own(&problem.message))
    };
    Err(problems.into_iter().map(in_file).collect())
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let problems = if count == 1 { "problem" } else { "problems" };
        write!(f, "{count} {problems} in the configuration")?;
        if let Some(file) = &self.file {
            write!(f, " ({})", file.display())?;
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

// === impl Settings ===

impl Settings {
    /// Reads the file that `$OVERSPILL_CONFIG` names, else `config/overspill.toml` if it is there, else
    /// takes the defaults; then the environment's `OVERSPILL__…`.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn load() -> Result<Self, ConfigError> {
        Self::read(Self::default_file().as_deref())
    }

    /// Reads the file at `path`, then the environment's `OVERSPILL__…`.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn load_from(path: &Path) -> Result<Self, ConfigError> {
        Self::read(Some(path))
    }

    fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (settings, problems) = Self::read_leniently(path);
        if problems.is_empty() {
            return Ok(settings);
        }
        Err(ConfigError {
            file: path.map(Path::to_path_buf),
            problems,
        })
    }

    /// As much of the configuration as can be read, and every problem: what has one stands at its default.
    #[must_use]
    pub fn read_leniently(path: Option<&Path>) -> (Self, Vec<Problem>) {
        Self::from_tree(tree::read(path, None))
    }

    /// The file that is read when no other is named.
    #[must_use]
    pub fn default_file() -> Option<PathBuf> {
        match std::env::var_os(PATH_VARIABLE) {
            Some(path) if !path.is_empty() => Some(path.into()),
            _ => Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()),
        }
    }

    /// Reads `text` as a configuration file would be read, without the environment.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        match Self::from_tree(tree::read_text(text)) {
            (settings, problems) if problems.is_empty() => Ok(settings),
            (_, problems) => Err(ConfigError {
                file: None,
                problems,
            }),
        }
    }

    fn from_tree(tree: Result<tree::Tree, Problem>) -> (Self, Vec<Problem>) {
        let tree = match tree {
            Ok(tree) => tree,
            Err(problem) => return (Self::default(), vec![problem]),
        };
        let (settings, mut problems) = tree::settings(tree);
        let mut across = Vec::new();
        settings.check_into(&mut across);
        // A value that could not be read stands at its default now; what that default collides with is not
        // the operator's doing.
        across.retain(|found| !found.is_about(&problems));
        problems.extend(across);
        // The tree has no order of its own.
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        (settings, problems)
    }

    /// Looks for what is wrong across keys.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.check_into(&mut problems);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                file: None,
                problems,
            })
        }
    }

    fn check_into(&self, problems: &mut Vec<Problem>) {
        check::load(&self.load, problems);
        self.primary.limits.check("primary.limits", problems);
        if let Some(tls) = &self.primary.tls {
            tls.check("primary.tls", problems);
        }
        #[cfg(feature = "server")]
        self.primary.files.check("primary.files", problems);
        self.admin.check(problems);
        #[cfg(feature = "server")]
        self.primary.proxy.check("primary.proxy", problems);
        #[cfg(feature = "server")]
        self.edge.check(problems);
        #[cfg(feature = "server")]
        self.access_log.check("access_log", problems);
        if let Err(found) = self.compile() {
            problems.extend(found);
        }
    }

    /// What the request path reads.
    ///
    /// # Errors
    /// Every problem, each with its key.
    pub fn compile(&self) -> Result<Compiled, Vec<Problem>> {
        let parts = Parts {
            mode: self.mode,
            explain_header: self.explain_header,
            server_timing: self.server_timing,
            over_tls: self.primary.tls.is_some(),
            hosts: &self.primary.hosts,
            trusted_proxies: &self.primary.trusted_proxies,
            offload: &self.offload,
            rewrite: &self.rewrite,
            throttle: &self.throttle,
            drop: self.drop,
        };
        Compiled::new(parts, Instant::now())
    }

    /// A copy that may be shown: tokens and keys are hidden.
    #[must_use]
    pub fn redacted(&self) -> Self {
        const HIDDEN: &str = "(hidden)";
        let mut shown = self.clone();
        for secret in [&mut shown.offload.token, &mut shown.admin.token] {
            if !secret.is_empty() {
                HIDDEN.clone_into(secret);
            }
        }
        #[cfg(feature = "server")]
        shown.edge.hide_secrets(HIDDEN);
        if let Some(key) = shown
            .offload
            .identity
            .as_mut()
            .and_then(|identity| identity.key.as_mut())
        {
            HIDDEN.clone_into(key);
        }
        shown
    }
}
