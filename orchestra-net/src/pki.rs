//! The cluster's certificates: one authority, and what it vouches for.
//!
//! Kubernetes reads a client certificate's common name as the user and its organization as the group
//! (Kubernetes documentation, "Authenticating", X.509 client certificates); so does this.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use orchestra_core::clock::{Clock, Timestamp};

use crate::private_file;

/// The group whose members may do everything.
pub const MASTERS_GROUP: &str = "system:masters";
/// The group of the kubelets.
pub const NODES_GROUP: &str = "system:nodes";

const AUTHORITY_YEARS: i16 = 10;
const CREDENTIAL_YEARS: i16 = 1;
const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";

/// Why a certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the authority can't be read or written.
    #[error("can't use {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name can't stand in a certificate, or a key or certificate is malformed.
    #[error("invalid certificate")]
    Certificate(#[from] rcgen::Error),
    /// A key and a certificate don't make a TLS endpoint.
    #[error("unusable credential")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Who a client certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub user: String,
    /// The user's group.
    pub group: Option<String>,
}

impl Subject {
    /// The administrator, who may do everything.
    #[must_use]
    pub fn admin() -> Self {
        Self { user: "kubernetes-admin".into(), group: Some(MASTERS_GROUP.into()) }
    }

    /// The kubelet of `node`.
    #[must_use]
    pub fn node(node: &str) -> Self {
        Self { user: format!("system:node:{node}"), group: Some(NODES_GROUP.into()) }
    }

    /// A component of the control plane, such as `kube-scheduler`.
    #[must_use]
    pub fn component(name: &str) -> Self {
        Self { user: format!("system:{name}"), group: None }
    }
}

/// A certificate with its private key, both in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A certificate authority of one cluster.
pub struct CertificateAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateAuthority")
    }
}

impl CertificateAuthority {
    /// Makes a new authority, valid for ten years from now.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] if the machine can't make a key.
    pub fn generate(clock: &dyn Clock) -> Result<Self, Error> {
        Ok(Self::generate_with_key(clock)?.0)
    }

    /// Loads the authority kept in `dir`, or makes one and keeps it there, its key readable by its owner only.
    ///
    /// # Errors
    ///
    /// [`Error::File`] naming the file that can't be used, [`Error::Certificate`] if it is damaged.
    pub fn load_or_generate(dir: &Path, clock: &dyn Clock) -> Result<Self, Error> {
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        if !certificate.exists() {
            let (authority, key_pem) = Self::generate_with_key(clock)?;
            fs::create_dir_all(dir).map_err(file(dir))?;
            private_file::write(&key, key_pem.as_bytes()).map_err(file(&key))?;
            private_file::write(&certificate, authority.certificate_pem.as_bytes()).map_err(file(&certificate))?;
            return Ok(authority);
        }
        let certificate_pem = fs::read_to_string(&certificate).map_err(file(&certificate))?;
        let key_pem = fs::read_to_string(&key).map_err(file(&key))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(&key_pem)?)?;
        Ok(Self { certificate_pem, issuer })
    }

    /// The authority's certificate, which clients trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Vouches that whoever holds the credential is `subject`.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] if a name can't stand in a certificate.
    pub fn issue_client(&self, subject: &Subject, clock: &dyn Clock) -> Result<Credential, Error> {
        self.issue(subject, &[], vec![ExtendedKeyUsagePurpose::ClientAuth], clock)
    }

    /// Vouches that whoever holds the credential is `subject`, and serves at `names`, which may be addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] if a name can't stand in a certificate.
    pub fn issue_server(&self, subject: &Subject, names: &[&str], clock: &dyn Clock) -> Result<Credential, Error> {
        self.issue(
            subject,
            names,
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            clock,
        )
    }

    fn generate_with_key(clock: &dyn Clock) -> Result<(Self, String), Error> {
        let mut params = params("orchestra", None, AUTHORITY_YEARS, clock);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let (certificate_pem, key_pem) = (params.self_signed(&key)?.pem(), key.serialize_pem());
        Ok((Self { certificate_pem, issuer: Issuer::new(params, key) }, key_pem))
    }

    fn issue(
        &self,
        subject: &Subject,
        names: &[&str],
        usages: Vec<ExtendedKeyUsagePurpose>,
        clock: &dyn Clock,
    ) -> Result<Credential, Error> {
        let mut params = params(&subject.user, subject.group.as_deref(), CREDENTIAL_YEARS, clock);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credential { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// Whether clients have to show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A client may come without, and prove itself in another way.
    Optional,
    /// No certificate, no connection.
    Required,
}

/// How to serve TLS as `credential`: the only certificates that clients can show are those of `authority_pem`.
///
/// # Errors
///
/// [`Error::Tls`] if the credential or the authority is malformed.
pub fn server_config(
    credential: &Credential,
    authority_pem: &str,
    clients: ClientCertificates,
) -> Result<Arc<ServerConfig>, Error> {
    let (certificates, key) = chain(credential)?;
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority_pem)?), provider());
    if clients == ClientCertificates::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(tls)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How to reach a server that `authority_pem` vouches for, as `credential`, by HTTP/1.1.
///
/// # Errors
///
/// [`Error::Tls`] if the credential or the authority is malformed.
pub fn client_config(credential: &Credential, authority_pem: &str) -> Result<Arc<ClientConfig>, Error> {
    let (certificates, key) = chain(credential)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(roots(authority_pem)?)
        .with_client_auth_cert(certificates, key)
        .map_err(tls)?;
    Ok(Arc::new(config))
}

fn params(user: &str, group: Option<&str>, years: i16, clock: &dyn Clock) -> CertificateParams {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // A day of slack for clients whose clocks are behind.
    (params.not_before, params.not_after) = (day(clock.now(), -1, 0), day(clock.now(), 1, years));
    params
}

fn day(now: Timestamp, days: i64, years: i16) -> time::OffsetDateTime {
    const DAY_SECONDS: i64 = 86_400;
    const YEAR_DAYS: i64 = 365;
    let days = days + i64::from(years) * YEAR_DAYS;
    time::OffsetDateTime::from_unix_timestamp(now.as_second() + days * DAY_SECONDS)
        .expect("a clock shows a year that a certificate can")
}

fn chain(credential: &Credential) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let certificates = CertificateDer::pem_slice_iter(credential.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(tls)?;
    let key = PrivateKeyDer::from_pem_slice(credential.key_pem.as_bytes()).map_err(tls)?;
    Ok((certificates, key))
}

fn roots(authority_pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority_pem.as_bytes()) {
        roots.add(certificate.map_err(tls)?).map_err(tls)?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn tls(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tls(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use orchestra_core::clock::SystemClock;

    use super::{CertificateAuthority, Subject};

    #[test]
    fn an_authority_survives_a_restart_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = CertificateAuthority::load_or_generate(dir.path(), &SystemClock).expect("made");
        let second = CertificateAuthority::load_or_generate(dir.path(), &SystemClock).expect("loaded");
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let mode = dir.path().join("ca.key").metadata().expect("a key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_client_certificate_names_its_user_and_group() {
        let authority = CertificateAuthority::generate(&SystemClock).expect("made");
        let credential = authority.issue_client(&Subject::node("n1"), &SystemClock).expect("issued");
        let (_, pem) = x509_parser::pem::parse_x509_pem(credential.certificate_pem.as_bytes()).expect("PEM");
        let certificate = pem.parse_x509().expect("a certificate");
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
    }

    #[test]
    fn a_damaged_authority_is_an_error_not_a_new_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        CertificateAuthority::load_or_generate(dir.path(), &SystemClock).expect("made");
        std::fs::write(dir.path().join("ca.crt"), "torn").expect("written");
        assert!(CertificateAuthority::load_or_generate(dir.path(), &SystemClock).is_err());
    }
}
