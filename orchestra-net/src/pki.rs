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
/// How long before its end an authority is renewed: what it vouches for must not outlive it.
const AUTHORITY_RENEWAL_SECONDS: i64 = 2 * 365 * 86_400;
const LOCK_FILE: &str = "ca.lock";
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
    /// The authority in this file is not valid now: the clock is wrong, or nobody renewed it for years.
    #[error("the authority in {} is not valid now", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
    },
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
    /// Several may do so at the same time, and get the same one. In its last two years an authority is renewed with the
    /// same key, so that what it vouched for stays valid, and so does the old certificate until its end.
    ///
    /// # Errors
    ///
    /// [`Error::File`] naming the file that can't be used, [`Error::Certificate`] if it is damaged, [`Error::Expired`] if it
    /// isn't valid now.
    pub fn load_or_generate(dir: &Path, clock: &dyn Clock) -> Result<Self, Error> {
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        fs::create_dir_all(dir).map_err(file(dir))?;
        // Held until the files are there, or read.
        let lock = fs::File::create(dir.join(LOCK_FILE)).map_err(file(dir))?;
        lock.lock().map_err(file(dir))?;
        if !certificate.exists() {
            let (authority, key_pem) = Self::generate_with_key(clock)?;
            private_file::write(&key, key_pem.as_bytes()).map_err(file(&key))?;
            private_file::write(&certificate, authority.certificate_pem.as_bytes()).map_err(file(&certificate))?;
            return Ok(authority);
        }
        let certificate_pem = fs::read_to_string(&certificate).map_err(file(&certificate))?;
        let key_pem = fs::read_to_string(&key).map_err(file(&key))?;
        let expired = || Error::Expired { path: certificate.clone() };
        let (first, last) = validity(&certificate_pem)?;
        let now = clock.now().as_second();
        if now < first || last < now {
            return Err(expired());
        }
        let key_pair = KeyPair::from_pem(&key_pem)?;
        if last - now < AUTHORITY_RENEWAL_SECONDS {
            let authority = Self::of_key(key_pair, clock)?;
            private_file::write(&certificate, authority.certificate_pem.as_bytes()).map_err(file(&certificate))?;
            return Ok(authority);
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key_pair)?;
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
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        Ok((Self::of_key(key, clock)?, key_pem))
    }

    fn of_key(key: KeyPair, clock: &dyn Clock) -> Result<Self, Error> {
        let mut params = params("orchestra", None, AUTHORITY_YEARS, clock);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { certificate_pem, issuer: Issuer::new(params, key) })
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

/// The first and last second, since 1970, at which a certificate is valid.
fn validity(certificate_pem: &str) -> Result<(i64, i64), Error> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).map_err(tls)?;
    let validity = pem.parse_x509().map_err(tls)?.validity().clone();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
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

    use orchestra_core::clock::{Clock, SystemClock, Timestamp};

    use super::{CertificateAuthority, Error, Subject, validity};

    /// A clock that stands.
    #[derive(Debug)]
    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0).expect("a time")
        }
    }

    const DAY: i64 = 86_400;
    const YEAR: i64 = 365 * DAY;

    #[test]
    fn an_authority_is_renewed_in_time_and_refused_after_its_time() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let load = |at| CertificateAuthority::load_or_generate(dir.path(), &At(at));
        let first = load(50 * YEAR).expect("made");
        assert_eq!(load(57 * YEAR).expect("loaded").certificate_pem(), first.certificate_pem());
        let renewed = load(59 * YEAR).expect("renewed");
        assert_eq!(validity(renewed.certificate_pem()).expect("a certificate").1, 69 * YEAR + DAY);
        let key = |pem: &str| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
            pem.parse_x509().expect("a certificate").public_key().raw.to_vec()
        };
        assert_eq!(key(renewed.certificate_pem()), key(first.certificate_pem()), "what it vouched for stays valid");
        for wrong in [49 * YEAR, 80 * YEAR] {
            assert!(matches!(load(wrong), Err(Error::Expired { .. })));
        }
    }

    #[test]
    fn all_who_come_at_the_same_time_get_one_authority() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let load = || {
            let authority = CertificateAuthority::load_or_generate(dir.path(), &SystemClock).expect("made or loaded");
            authority.certificate_pem().to_owned()
        };
        let all: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(all.len(), 1);
    }

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
