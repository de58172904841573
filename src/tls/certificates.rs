//! The certificates of a listener, and which one a client gets.

use std::{borrow::Cow, collections::HashMap, num::NonZeroU16, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::{
    ServerConfig, SignatureScheme,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    TlsSettings,
    certificate::{Certificate, date},
    hsts,
};
use crate::problem::Problem;

/// The certificates of a listener.
#[derive(Debug, Clone)]
pub struct Certificates {
    kept: Arc<Kept>,
    config: Arc<ServerConfig>,
}

/// What stays while the certificates change.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) section: &'static str,
    provider: Arc<CryptoProvider>,
    /// Written by the watch and by a reload, read by every handshake.
    current: ArcSwap<Set>,
}

/// Those that are in use.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) settings: Arc<TlsSettings>,
    certificates: Vec<Certificate>,
    /// By name, those that come first first.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wild: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

/// Certificates that were read and are not in use yet.
#[derive(Debug)]
pub(crate) struct Prepared(Set);

// === impl Certificates ===

impl Certificates {
    /// Reads the files that `settings` name; `section` names them in problems. Waits for the disk.
    ///
    /// # Errors
    /// Every problem of the files.
    pub fn read(settings: &TlsSettings, section: &'static str) -> Result<Self, Vec<Problem>> {
        let provider = Arc::new(ring::default_provider());
        let set = Set::read(&Arc::new(settings.clone()), section, &provider)?;
        set.warn(SystemTime::now());
        let kept = Arc::new(Kept {
            section,
            provider,
            current: ArcSwap::from_pointee(set),
        });
        let config = config(&kept).map_err(|error| vec![Problem::new(section, error)])?;
        Ok(Self { kept, config })
    }

    pub(super) const fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// Reads the files that other settings name, for [`take`](Self::take). Waits for the disk.
    ///
    /// # Errors
    /// Every problem of the files.
    pub(crate) fn prepare(&self, settings: &TlsSettings) -> Result<Prepared, Vec<Problem>> {
        let (settings, kept) = (Arc::new(settings.clone()), &self.kept);
        let set = Set::read(&settings, kept.section, &kept.provider)?;
        set.warn(SystemTime::now());
        Ok(Prepared(set))
    }

    /// Goes by what was prepared from now on.
    pub(crate) fn take(&self, prepared: Prepared) {
        self.kept.current.store(Arc::new(prepared.0));
    }

    /// The port that a redirect to a listener at the port `listened` names.
    pub(crate) fn port(&self, listened: u16) -> u16 {
        let named = self.kept.current().settings.redirect_port;
        named.map_or(listened, NonZeroU16::get)
    }

    /// What is said about coming back over https alone.
    pub(super) fn hsts(&self) -> Option<HeaderValue> {
        self.kept.current().settings.hsts.map(hsts::policy)
    }

    pub(super) const fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

/// What rustls serves with the certificates: TLS 1.2 and 1.3, HTTP/2 or HTTP/1.1, sessions resumed by tickets that only
/// this process can read (RFC 8446 section 4.6.1).
fn config(kept: &Arc<Kept>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(kept.provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(kept.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

// === impl Kept ===

impl Kept {
    /// Reads the files of `current` again and puts what they hold in its place. Waits for the disk.
    pub(super) fn renew(&self, current: &Arc<Set>) -> Result<Arc<Set>, Vec<Problem>> {
        let set = Set::read(&current.settings, self.section, &self.provider)?;
        let set = Arc::new(set);
        // A reload that came meanwhile names other files.
        self.current.compare_and_swap(current, set.clone());
        Ok(set)
    }

    pub(super) fn current(&self) -> Arc<Set> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for Kept {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.current.load();
        set.choose(hello.server_name(), hello.signature_schemes())
    }
}

// === impl Set ===

impl Set {
    fn read(
        settings: &Arc<TlsSettings>,
        section: &str,
        provider: &CryptoProvider,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut set = Self {
            settings: settings.clone(),
            ..Self::default()
        };
        for (section, certificate, key) in settings.pairs(section) {
            let files = (certificate, key);
            if let Some(read) = Certificate::read(&section, files, provider, &mut problems) {
                set.add(read);
            }
        }
        if problems.is_empty() {
            Ok(set)
        } else {
            Err(problems)
        }
    }

    fn add(&mut self, certificate: Certificate) {
        for name in &certificate.names {
            let of_name = match name.strip_prefix("*.") {
                Some(parent) => self.wild.entry(parent.to_owned()),
                None => self.names.entry(name.clone()),
            };
            of_name.or_default().push(certificate.key.clone());
        }
        self.certificates.push(certificate);
    }

    /// The names that the certificates carry.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .certificates
            .iter()
            .flat_map(|certificate| certificate.names.iter().cloned())
            .collect();
        names.dedup();
        names
    }

    /// When the first of them ends.
    pub(super) fn ends(&self) -> Option<SystemTime> {
        self.certificates
            .iter()
            .map(|certificate| certificate.ends)
            .min()
    }

    /// Tells the log of those that browsers refuse now.
    pub(super) fn warn(&self, now: SystemTime) {
        for certificate in &self.certificates {
            let names = certificate.names.join(", ");
            if certificate.ends <= now {
                let until = date(certificate.ends);
                tracing::warn!(names, until, "the certificate has expired");
            } else if certificate.begins > now {
                let from = date(certificate.begins);
                tracing::warn!(names, from, "the certificate is not valid yet");
            }
        }
    }

    /// The certificate for `name` that a client with these `schemes` can use: one of that name, else the first of all.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let of_name = name.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                Cow::Borrowed(name)
            };
            let exact = self.names.get(&*name);
            let parent = name.split_once('.').map(|(_, parent)| parent);
            let wild = parent.and_then(|parent| self.wild.get(parent));
            let mut keys = exact.into_iter().chain(wild).flatten();
            keys.find(usable).cloned()
        });
        of_name.or_else(|| {
            let first = self.certificates.first()?;
            Some(first.key.clone())
        })
    }
}
