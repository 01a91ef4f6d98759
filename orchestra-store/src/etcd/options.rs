//! How to reach an etcd.

use std::{fmt, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use orchestra_core::store::Prefix;

/// What stands for any longer time: a century of 365-day years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// What can be chosen when an [`EtcdStore`](super::EtcdStore) connects.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs, such as `http://127.0.0.1:2379`; one is used until it fails, then the next.
    pub endpoints: Vec<String>,
    /// What all keys of the store begin with in etcd, so that several stores can share one.
    pub prefix: Prefix,
    /// Certificates, for endpoints with `https`.
    pub tls: Option<EtcdTls>,
    /// Who to be, if etcd asks.
    pub user: Option<EtcdUser>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long one call may take, on however many members; of a listing each page may, and it is begun anew for so long if
    /// compaction overtakes it.
    pub request_timeout: Duration,
    /// How often a member that is busy with a call or a watch is asked whether it is there; etcd refuses less than 5 s.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
}

impl EtcdOptions {
    /// Those for `endpoints`: keys under `/orchestra/`, no TLS, no user, and the times of Kubernetes' own client scaled
    /// down to what a watch on a silent member should cost.
    #[must_use]
    #[allow(clippy::missing_panics_doc, reason = "the segment is valid")]
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: Prefix::new(["orchestra"]).expect("a valid segment"),
            tls: None,
            user: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
        }
    }

    /// The same, with no time so long that no clock comes to its end.
    pub(super) fn bounded(self) -> Self {
        Self {
            connect_timeout: self.connect_timeout.min(FOREVER),
            request_timeout: self.request_timeout.min(FOREVER),
            keepalive_interval: self.keepalive_interval.min(FOREVER),
            keepalive_timeout: self.keepalive_timeout.min(FOREVER),
            ..self
        }
    }

    pub(super) fn connect_options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(self.keepalive_interval, self.keepalive_timeout)
            // etcd takes pings of a connection at rest for an attack.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(EtcdUser { name, password }) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options());
        }
        options
    }
}

/// The certificates of a connection to etcd.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authority that signs the members' certificates, in PEM.
    pub ca: String,
    /// The client's own certificate and key, in PEM, if etcd asks for them.
    pub identity: Option<(String, String)>,
}

impl EtcdTls {
    fn options(&self) -> TlsOptions {
        let options = TlsOptions::new().ca_certificate(Certificate::from_pem(&self.ca));
        match &self.identity {
            Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key)),
            None => options,
        }
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct EtcdUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}
