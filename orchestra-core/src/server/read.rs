//! Get and list.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    api::validation::{FieldError, Path},
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
    store::{Prefix, Revision},
};

/// How long a read waits for a revision that the store has not reached.
const FUTURE_SECONDS_MAX: u64 = 3;

/// What of a continue token proves that this server, or another of the store, made it: its HMAC-SHA256.
const TAG_BYTES: usize = 32;

/// Where a list goes on, as its client carries it: opaque, signed, and bound to the request (SEMANTICS 8).
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// The snapshot; none to go on with whatever is there, once the snapshot is gone.
    revision: Option<u64>,
    after: String,
}

/// As of when a list is wanted (SEMANTICS 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Whatever is there.
    Any,
    /// All that was written before the request.
    Consistent,
    NotOlderThan(Revision),
    Exact(Revision),
}

impl Inner {
    pub(super) async fn get(&self, kind: &Kind, target: &Target, query: &Query) -> Result<Answer> {
        let name = target.name.as_deref().unwrap_or_default();
        if let Some(revision) = revision_of(query)? {
            self.reach(revision).await?;
        }
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
        let rendered = object::render(Vec::new(), &entry.value, entry.modified);
        let encoded = rendered.ok_or_else(|| Failure::internal("the store holds no object here"))?.buffer.into();
        Ok(Answer::Object { code: StatusCode::OK, kind_of: Some(KindRef::of(kind)), encoded, warnings: Vec::new() })
    }

    pub(super) async fn list(&self, kind: &Kind, target: &Target, query: &Query) -> Result<Answer> {
        let selection = Selection::parse(kind, query, target.name.as_deref())?;
        // Whoever wanted a watch, but not in words that say so, must not take a list for one.
        query.flag("watch")?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0_i64)).unwrap_or(0);
        let request = bound_to(target, query);
        let token = self.token_of(query, &request)?;
        let asked = asked(query, limit, token.as_ref())?;
        let prefix = object::prefix(kind, target.namespace.as_deref())?;
        let Some(view) = self.view(kind, &prefix, asked).await? else {
            return Err(match token {
                Some(Token { after, .. }) => {
                    Failure::expired_continue(self.sign(&Token { revision: None, after }, &request))
                }
                None => Failure::expired("The resourceVersion for the provided list is too old."),
            });
        };
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
                let after = item.key.as_str().to_owned();
                let remaining = matching.count();
                if remaining > 0 {
                    let token = self.sign(&Token { revision: Some(view.revision.0), after }, &request);
                    next = Some(Next { token, remaining });
                }
                break;
            }
        }
        Ok(Answer::List { kind_of: KindRef::of(kind), revision: view.revision, items, next })
    }

    /// The objects to list; `None` if the revision asked for is no longer known.
    async fn view(&self, kind: &Kind, prefix: &Prefix, asked: Asked) -> Result<Option<View>> {
        let reached = match asked {
            Asked::Any => Revision(1),
            Asked::Consistent => self.store.revision().await?,
            Asked::NotOlderThan(revision) | Asked::Exact(revision) => revision,
        };
        self.reach(reached).await?;
        Ok(match asked {
            Asked::Exact(revision) => self.cache.view_at(&kind.shelf(), prefix, revision),
            _ => Some(self.cache.view(&kind.shelf(), prefix)),
        })
    }

    /// Waits until the cache has reached `revision`, but not for long if the store itself hasn't.
    pub(super) async fn reach(&self, revision: Revision) -> Result<()> {
        let patience = std::time::Duration::from_secs(FUTURE_SECONDS_MAX);
        match tokio::time::timeout(patience, self.cache.reach(revision)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Failure::too_large_revision(revision, self.store.revision().await?)),
        }
    }

    fn token_of(&self, query: &Query, request: &str) -> Result<Option<Token>> {
        let text = query.value("continue");
        if text.is_empty() {
            return Ok(None);
        }
        let token = URL_SAFE_NO_PAD.decode(text).ok().and_then(|signed| {
            let (tag, token) = signed.split_at_checked(TAG_BYTES)?;
            hmac::verify(self.token_key(), &what_is_signed(request, token), tag).ok()?;
            serde_json::from_slice(token).ok()
        });
        let invalid =
            || Failure::bad_request("continue: Invalid value: the continue key is not valid for this request");
        token.ok_or_else(invalid).map(Some)
    }

    fn sign(&self, token: &Token, request: &str) -> String {
        let token = serde_json::to_vec(token).expect("a token is JSON");
        let tag = hmac::sign(self.token_key(), &what_is_signed(request, &token));
        URL_SAFE_NO_PAD.encode([tag.as_ref(), &token].concat())
    }

    fn token_key(&self) -> &hmac::Key {
        self.token_key.get().expect("set before the first request for a resource is taken")
    }
}

/// Neither part can borrow from the other: what JSON there is holds no NUL.
fn what_is_signed(request: &str, token: &[u8]) -> Vec<u8> {
    [request.as_bytes(), &[0], token].concat()
}

/// Reads as of when a list is wanted.
fn asked(query: &Query, limit: usize, token: Option<&Token>) -> Result<Asked> {
    let revision = revision_of(query)?;
    let matching = query.value("resourceVersionMatch");
    let forbidden = |field: &str, why: &str| {
        Err(Failure::invalid_options("ListOptions", &[FieldError::forbidden(&Path::root(field), why)]))
    };
    if !query.value("sendInitialEvents").is_empty() {
        return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    match (matching, token, revision) {
        ("", ..) => {}
        (_, Some(_), _) => {
            return forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
        (_, _, None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return forbidden("resourceVersionMatch", why);
        }
        ("Exact", _, Some(Revision(0))) => {
            let why = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            return forbidden("resourceVersionMatch", why);
        }
        ("Exact" | "NotOlderThan", ..) => {}
        (other, ..) => {
            let supported = ["Exact", "NotOlderThan"];
            let error = FieldError::not_supported(&Path::root("resourceVersionMatch"), other, &supported);
            return Err(Failure::invalid_options("ListOptions", &[error]));
        }
    }
    Ok(match (token, revision) {
        (Some(Token { revision: Some(revision), .. }), _) => Asked::Exact(Revision(*revision)),
        (Some(Token { revision: None, .. }), _) | (None, None) => Asked::Consistent,
        (None, Some(Revision(0))) => Asked::Any,
        // Paging from a named revision has always meant that very revision.
        (None, Some(revision)) if matching == "Exact" || (matching.is_empty() && limit > 0) => Asked::Exact(revision),
        (None, Some(revision)) => Asked::NotOlderThan(revision),
    })
}

/// The resource version a request names.
pub(super) fn revision_of(query: &Query) -> Result<Option<Revision>> {
    let text = query.value("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    if !query.value("continue").is_empty() && text != "0" {
        return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
    }
    let malformed = || Failure::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"));
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    text.parse().map(|revision| Some(Revision(revision))).map_err(|_| malformed())
}

/// What a continue token is good for, as JSON.
fn bound_to(target: &Target, query: &Query) -> String {
    let selectors = [query.value("labelSelector"), query.value("fieldSelector")];
    json!([target.group, target.plural, target.namespace, selectors]).to_string()
}
