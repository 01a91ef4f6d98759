//! Who asks, and whether they may.

use std::{collections::BTreeMap, sync::Arc};

use http::Extensions;

/// The group whose members may do everything.
pub const MASTERS_GROUP: &str = "system:masters";
/// The group of everyone who is known.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, such as `system:kube-scheduler`.
    pub name: String,
    /// What tells the user from another who had the name before; empty if nothing does.
    pub uid: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of these groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let groups = groups.into_iter().map(Into::into).collect();
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// A component of the control plane, which may do everything.
    pub fn master(name: impl Into<String>) -> Self {
        Self::new(name, [MASTERS_GROUP, AUTHENTICATED_GROUP])
    }

    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS_GROUP)
    }
}

/// A client's certificate, DER, which TLS has verified to be the cluster's authority's; put into a request's extensions
/// by whoever serves TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(pub Arc<[u8]>);

/// Who a request's extensions vouch for: a [`UserInfo`] put there in-process, or a [`PeerCertificate`], whose common
/// name is the user and whose organizations are the groups; nobody, if the certificate has no such name.
pub(crate) fn vouched(extensions: &Extensions) -> Option<UserInfo> {
    if let Some(user) = extensions.get::<UserInfo>() {
        return Some(user.clone());
    }
    let PeerCertificate(der) = extensions.get()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    Some(UserInfo::new(name, groups.chain([AUTHENTICATED_GROUP])))
}
