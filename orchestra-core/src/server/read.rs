//! Get and list.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    server::{
        Inner,
        cache::View,
        error::{Failure, Result},
        object,
        registry::Kind,
        respond::{Answer, KindRef, Next},
        route::{Query, Target},
        selection::Selection,
    },
    store::Revision,
};

/// How long a read waits for a revision that the store has not reached.
const FUTURE_SECONDS_MAX: u64 = 3;

/// Where a list goes on, as its client carries it: opaque, and bound to the request.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    revision: u64,
    after: String,
    request: String,
}

impl Inner {
    pub(super) async fn get(&self, kind: &Kind, target: &Target, query: &Query) -> Result<Answer> {
        let name = target.name.as_deref().unwrap_or_default();
        if let Some(revision) = revision_of(query)? {
            self.reach(revision).await?;
        }
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
        let object = object::decode(&entry.value, entry.modified)?;
        let encoded = serde_json::to_vec(&object).map_err(Failure::internal)?.into();
        Ok(Answer::Object { code: StatusCode::OK, kind_of: Some(KindRef::of(kind)), encoded, warnings: Vec::new() })
    }

    pub(super) async fn list(&self, kind: &Kind, target: &Target, query: &Query) -> Result<Answer> {
        let selection = Selection::parse(kind, query, target.name.as_deref())?;
        let limit: usize = query.number("limit")?.unwrap_or(0);
        let namespace = target.namespace.as_deref();
        let token = token_of(query, &bound_to(target, query))?;
        let view = self.view(kind, namespace, query, token.as_ref()).await?;
        let after = token.map(|token| token.after);
        let mut items = Vec::new();
        let mut next = None;
        let mut matching = view
            .items
            .iter()
            .filter(|item| after.as_deref().is_none_or(|after| item.key.as_str() > after))
            .filter(|item| selection.matches(item));
        for item in matching.by_ref() {
            items.push(item.encoded.clone());
            if limit > 0 && items.len() == limit {
                let last = item.key.as_str().to_owned();
                let remaining = matching.count();
                if remaining > 0 {
                    let token = Token { revision: view.revision.0, after: last, request: bound_to(target, query) };
                    let token = serde_json::to_vec(&token).map_err(Failure::internal)?;
                    next = Some(Next { token: URL_SAFE_NO_PAD.encode(token), remaining });
                }
                break;
            }
        }
        Ok(Answer::List { kind_of: KindRef::of(kind), revision: view.revision, items, next })
    }

    /// The objects to list, as of the revision that the request asks for (SEMANTICS 22).
    async fn view(&self, kind: &Kind, namespace: Option<&str>, query: &Query, token: Option<&Token>) -> Result<View> {
        let prefix = object::prefix(kind, namespace)?;
        let asked = match token {
            Some(token) => Some(Revision(token.revision)),
            None => revision_of(query)?,
        };
        let exact = token.is_some() || query.value("resourceVersionMatch") == "Exact";
        match asked {
            // Whatever is there is fresh enough.
            Some(Revision(0)) => self.cache.reach(Revision(1)).await,
            Some(revision) => self.reach(revision).await?,
            None => self.cache.reach(self.store.revision().await?).await,
        }
        match asked.filter(|_| exact) {
            Some(revision) => self.cache.view_at(&kind.shelf(), &prefix, revision).ok_or_else(|| {
                Failure::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                     without the continue parameter.",
                )
            }),
            None => Ok(self.cache.view(&kind.shelf(), &prefix)),
        }
    }

    /// Waits until the cache has reached `revision`, but not for long if the store itself hasn't.
    pub(super) async fn reach(&self, revision: Revision) -> Result<()> {
        let patience = std::time::Duration::from_secs(FUTURE_SECONDS_MAX);
        match tokio::time::timeout(patience, self.cache.reach(revision)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Failure::too_large_revision(revision, self.store.revision().await?)),
        }
    }
}

/// The resource version a request names.
pub(super) fn revision_of(query: &Query) -> Result<Option<Revision>> {
    let text = query.value("resourceVersion");
    if text.is_empty() {
        let matching = query.value("resourceVersionMatch");
        if !matching.is_empty() && !query.flag("sendInitialEvents")? {
            let message =
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(Failure::bad_request(message));
        }
        return Ok(None);
    }
    if !query.value("continue").is_empty() {
        return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
    }
    let revision = text
        .parse()
        .map_err(|_| Failure::bad_request(format!("Invalid value: \"{text}\": resourceVersion: must be a number")))?;
    Ok(Some(Revision(revision)))
}

/// What a continue token is good for.
fn bound_to(target: &Target, query: &Query) -> String {
    format!(
        "{}/{}/{:?}?{}&{}",
        target.group,
        target.plural,
        target.namespace,
        query.value("labelSelector"),
        query.value("fieldSelector")
    )
}

fn token_of(query: &Query, request: &str) -> Result<Option<Token>> {
    let text = query.value("continue");
    if text.is_empty() {
        return Ok(None);
    }
    let token = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
    match token {
        Some(token) if token.request == request => Ok(Some(token)),
        _ => Err(Failure::bad_request("continue key is not valid: it is not of this request")),
    }
}
