//! Certificates made by openssl, and a TLS client by hand.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    raw::{Answer, parse},
    wait::soon,
};

/// A folder of certificates that sign themselves: `NAME.pem` and `NAME.key`.
#[derive(Debug)]
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// None yet.
    pub(crate) fn none() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One called `a` for `localhost` and 127.0.0.1.
    pub(crate) fn of_localhost() -> Self {
        let certificates = Self::none();
        certificates.make("a", "DNS:localhost,IP:127.0.0.1");
        certificates
    }

    /// Makes one for `names` (`DNS:a.example,IP:127.0.0.1`).
    pub(crate) fn make(&self, name: &str, names: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
                 -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE \
                 -keyout {name}.key -out {name}.pem"
        ));
    }

    /// Makes one that has ended in February 2020.
    pub(crate) fn make_ended(&self, name: &str, names: &str) {
        let settings = "[ca]\ndefault_ca = d\n[d]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\ndefault_md = sha256\n\
             policy = p\ncopy_extensions = copy\n[p]\ncommonName = supplied\n";
        fs::write(self.path("ca.cnf"), settings).unwrap();
        fs::write(self.path("index"), "").unwrap();
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} \
             -addext subjectAltName={names} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -config ca.cnf -batch -notext -selfsign -keyfile {name}.key -in {name}.csr \
             -out {name}.pem -startdate 20200101000000Z -enddate 20200201000000Z"
        ));
    }

    /// Runs openssl in the folder, with arguments without spaces.
    pub(crate) fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_ascii_whitespace())
            .current_dir(self.0.path());
        let output = command.output().expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {output:?}");
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The lines of a configuration that name the certificate and the key called `name`.
    pub(crate) fn lines(&self, section: &str, name: &str) -> String {
        format!(
            "{section}.certificate = {:?}\n{section}.key = {:?}",
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key"))
        )
    }

    /// Puts the certificate `new`, or its key, in the place of the one called `old`, as who renews it would.
    pub(crate) fn replace(&self, old: &str, new: &str, kind: &str) {
        let (new, old) = (format!("{new}.{kind}"), format!("{old}.{kind}"));
        let aside = self.path("aside");
        fs::copy(self.path(&new), &aside).unwrap();
        fs::rename(aside, self.path(&old)).unwrap();
    }
}

/// A connection that trusts the certificates in the files alone.
pub(crate) async fn connect(
    stream: TcpStream,
    name: &str,
    trusted: &[PathBuf],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_for(&[], stream, name, trusted).await
}

/// The same, where one of these protocols is wanted (ALPN).
pub(crate) async fn connect_for(
    protocols: &[&str],
    stream: TcpStream,
    name: &str,
    trusted: &[PathBuf],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for file in trusted {
        roots.add(certificate(file)).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    soon("a handshake", connector.connect(name, stream)).await
}

/// The first certificate of a file.
pub(crate) fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// The certificate that a server shows for `name`; whether anybody would trust it does not matter.
pub(crate) async fn shown(
    address: SocketAddr,
    name: &str,
    among: &[PathBuf],
) -> Option<CertificateDer<'static>> {
    for file in among {
        let stream = TcpStream::connect(address).await.unwrap();
        if let Ok(stream) = connect(stream, name, std::slice::from_ref(file)).await {
            let shown = stream.get_ref().1.peer_certificates().unwrap();
            return Some(shown[0].clone().into_owned());
        }
    }
    None
}

/// A `GET` over a connection that stays; the answer has a length.
pub(crate) async fn get(stream: &mut TlsStream<TcpStream>, target: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    loop {
        let head = read.windows(4).position(|window| window == b"\r\n\r\n");
        if head.is_some() {
            let answer = parse(&read, false);
            if answer.is_whole {
                return answer;
            }
        }
        let count = soon("an answer", stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&read));
    }
}
