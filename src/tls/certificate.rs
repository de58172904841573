//! A certificate and its key, as their files have them.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage};

use crate::problem::Problem;

/// A certificate, its key, and what it says of itself.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// In lower case; `*.` before a name stands for one label.
    pub(super) names: Vec<String>,
    /// From when on it is valid.
    pub(super) begins: SystemTime,
    /// Until when.
    pub(super) ends: SystemTime,
}

// === impl Certificate ===

impl Certificate {
    /// Reads both files; appends what is wrong, with `section` before each key. Waits for the disk.
    pub(super) fn read(
        section: &str,
        (certificate, key): (&Path, &Path),
        provider: &CryptoProvider,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let mut problem = |name: &str, message: String| {
            problems.push(Problem::new(format!("{section}.{name}"), message));
        };
        let chain = read(certificate, "a certificate (PEM)", |bytes| {
            let chain = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()?;
            // Nothing but other things in it.
            (!chain.is_empty())
                .then_some(chain)
                .ok_or(pem::Error::NoItemsFound)
        })
        .map_err(|message| problem("certificate", message))
        .ok();
        let wanted = "a private key without a passphrase (PEM: PKCS #8, PKCS #1 or SEC 1)";
        let private = read(key, wanted, PrivateKeyDer::from_pem_slice)
            .map_err(|message| problem("key", message))
            .ok();
        let (chain, private) = (chain?, private?);
        let told = chain
            .first()
            .ok_or_else(|| "none".to_owned())
            .and_then(|first| Told::of(first).map_err(|error| error.to_string()))
            .map_err(|error| {
                let certificate = certificate.display();
                problem(
                    "certificate",
                    format!("must be an X.509 certificate, found in {certificate}: {error}"),
                );
            })
            .ok()?;
        match CertifiedKey::from_der(chain, private, provider) {
            Ok(key) => Some(Self {
                key: Arc::new(key),
                names: told.names,
                begins: told.begins,
                ends: told.ends,
            }),
            Err(rustls::Error::InconsistentKeys(_)) => {
                let message = format!(
                    "must be the key of the certificate in {}, found another one in {}",
                    certificate.display(),
                    key.display()
                );
                problem("key", message);
                None
            }
            Err(error) => {
                let key = key.display();
                let message = format!(
                    "must be an RSA, ECDSA or Ed25519 key that TLS can use, found in {key}: {error}"
                );
                problem("key", message);
                None
            }
        }
    }
}

/// As logs and messages show it.
pub(super) fn date(time: SystemTime) -> String {
    // No certificate has a date that RFC 3339 can't write.
    humantime::format_rfc3339_seconds(time).to_string()
}

/// What `parse` finds in a file, which has to be `wanted`.
fn read<T>(
    path: &Path,
    wanted: &str,
    parse: impl Fn(&[u8]) -> Result<T, pem::Error>,
) -> Result<T, String> {
    let path_shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("must be the path of a PEM file, found no file at {path_shown}")
        }
        _ => format!("must be a PEM file that can be read, found {path_shown}: {error}"),
    })?;
    parse(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("must hold {wanted}, found none in {path_shown}"),
        error => format!("must hold {wanted}, found in {path_shown}: {error:?}"),
    })
}

/// What a certificate says of itself.
struct Told {
    names: Vec<String>,
    begins: SystemTime,
    ends: SystemTime,
}

// === impl Told ===

impl Told {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, webpki::Error> {
        let parsed = EndEntityCert::try_from(certificate)?;
        // There is no other way to ask for the times: before the beginning of all time it is not valid yet, and after the
        // end of all time it has expired, whoever has signed it.
        let at = |seconds| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            parsed
                .verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None)
                .err()
        };
        let begins = match at(0) {
            Some(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
            _ => 0,
        };
        let ends = match at(u64::MAX) {
            Some(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
            Some(webpki::Error::InvalidCertValidity) => {
                return Err(webpki::Error::InvalidCertValidity);
            }
            _ => 0,
        };
        Ok(Self {
            names: parsed
                .valid_dns_names()
                .map(str::to_ascii_lowercase)
                .collect(),
            begins: UNIX_EPOCH + Duration::from_secs(begins),
            ends: UNIX_EPOCH + Duration::from_secs(ends),
        })
    }
}
