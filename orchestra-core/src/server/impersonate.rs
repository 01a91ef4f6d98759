//! Acting as another user, as `kubectl --as` asks for it: whoever may `impersonate` is that user for one request
//! (SEMANTICS 32).

use http::{HeaderMap, HeaderName};

use crate::server::{
    AUTHENTICATED_GROUP, Inner, UserInfo,
    error::{Failure, Result},
    route::{Query, Target, percent_decoded},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// What the names of headers begin with that say what else the authenticator would know; the rest is a key.
const EXTRA: &str = "impersonate-extra-";
/// What all of these begin with.
const PREFIX: &str = "impersonate-";
/// The group of uids and of what else is known of a user.
const AUTHENTICATION: &str = "authentication.k8s.io";
/// The name of whoever shows no credential.
const ANONYMOUS: &str = "system:anonymous";
/// The group of whoever shows no credential.
const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// What the names of service accounts begin with; namespace and name follow.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

impl Inner {
    /// Who a request is to be of: `user`, or the one that `user` asks to act as and may.
    ///
    /// # Errors
    ///
    /// 403 if the user may not act as that one, or as a member of a group; 500, as Kubernetes has it, for a group without a
    /// user.
    pub(super) async fn impersonated(&self, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo> {
        let Some(wanted) = wanted(headers)? else { return Ok(user) };
        let query = Query::default();
        let mut targets = vec![subject(&wanted.name)];
        targets.extend(wanted.groups.iter().map(|group| target("", "groups", group)));
        for (key, values) in &wanted.extra {
            let of_key = |value: &String| Target {
                subresource: Some(key.clone()),
                ..target(AUTHENTICATION, "userextras", value)
            };
            targets.extend(values.iter().map(of_key));
        }
        targets.extend((!wanted.uid.is_empty()).then(|| target(AUTHENTICATION, "uids", &wanted.uid)));
        for target in &targets {
            self.authorize(&user, "impersonate", target, &query).await?;
        }
        tracing::debug!(user = user.name, acting_as = wanted.name, "impersonation");
        Ok(with_implied_groups(wanted))
    }
}

/// Whom the headers of a request name; nobody if they don't.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>> {
    let mut wanted = UserInfo::default();
    let mut named = Vec::new();
    for (header, value) in headers.iter().filter(|(header, _)| header.as_str().starts_with(PREFIX)) {
        let value = value.to_str().map_err(|_| unreadable(header))?.to_owned();
        match header.as_str() {
            USER => wanted.name = value,
            GROUP => wanted.groups.push(value),
            UID => wanted.uid = value,
            other => {
                let Some(key) = other.strip_prefix(EXTRA) else { continue };
                wanted.extra.entry(percent_decoded(key)).or_default().push(value);
            }
        }
        named.push(header.as_str());
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    // To go on as oneself would be to do with one's own rights what was meant to be done with another's.
    match named.as_slice() {
        [] => Ok(None),
        named => Err(Failure::internal(format!("requested {named:?} without impersonating a user"))),
    }
}

/// The groups that a user is in without being put there; those of a service account only if none are given.
fn with_implied_groups(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = service_account(&user.name)
    {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if !user.groups.iter().any(|group| group == AUTHENTICATED_GROUP || group == UNAUTHENTICATED_GROUP) {
        let implied = if user.name == ANONYMOUS { UNAUTHENTICATED_GROUP } else { AUTHENTICATED_GROUP };
        user.groups.push(implied.into());
    }
    user
}

/// What has to be allowed to be impersonated for a user of this name.
fn subject(name: &str) -> Target {
    match service_account(name) {
        Some((namespace, account)) => {
            Target { namespace: Some(namespace.into()), ..target("", "serviceaccounts", account) }
        }
        None => target("", "users", name),
    }
}

/// The namespace and the name of a service account, by the name of its user.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':').filter(|(_, name)| !name.contains(':'))
}

fn target(group: &str, plural: &str, name: &str) -> Target {
    Target {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        namespace: None,
        name: Some(name.into()),
        subresource: None,
        watched: false,
    }
}

fn unreadable(header: &HeaderName) -> Failure {
    Failure::bad_request(format!("the header {header} holds more than visible ASCII"))
}
