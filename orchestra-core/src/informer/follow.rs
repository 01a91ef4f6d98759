//! The loop behind a cache: list, then watch, then list again when the watch can't go on.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};

use super::{Cached, cache::Cache};

/// How many objects a list asks for at a time.
const PAGE_OBJECTS: u32 = 500;
/// What a loop waits after its first failure, and at most.
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a watch may be silent; well below what a server allows.
const WATCH_SECONDS: u32 = 290;

/// The HTTP status of a watch that can't go on.
const GONE: u16 = 410;

/// Keeps `cache` until dropped.
pub(super) async fn follow<K: Cached>(api: Api<K>, fields: String, cache: Arc<Cache<K>>) {
    let mut backoff = BACKOFF;
    loop {
        match list(&api, &fields).await {
            Ok((objects, revision)) => {
                // Refused if it is older than the cache: from a server that is behind; the next one may not be.
                if cache.replace(objects, revision) {
                    watch(&api, &fields, &cache, &mut backoff).await;
                }
            }
            Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "listing failed"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn list<K: Cached>(api: &Api<K>, fields: &str) -> kube::Result<(Vec<K>, u64)> {
    let mut objects = Vec::new();
    let mut params = ListParams::default().fields(fields).limit(PAGE_OBJECTS);
    loop {
        let page = api.list(&params).await?;
        let revision = page.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok((objects, revision)),
        }
    }
}

/// Watches for as long as it goes on without a gap.
async fn watch<K: Cached>(api: &Api<K>, fields: &str, cache: &Cache<K>, backoff: &mut Duration) {
    loop {
        let params = WatchParams::default().fields(fields).timeout(WATCH_SECONDS);
        let mut events = match api.watch(&params, &cache.revision().to_string()).await {
            Ok(events) => events.boxed(),
            Err(kube::Error::Api(status)) if status.code == GONE => return,
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watching failed");
                tokio::time::sleep(*backoff).await;
                *backoff = (*backoff * 2).min(BACKOFF_MAX);
                continue;
            }
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => cache.put(object),
                Ok(WatchEvent::Deleted(object)) => cache.remove(&object),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    cache.advance(bookmark.metadata.resource_version.parse().unwrap_or(0));
                }
                Ok(WatchEvent::Error(status)) if status.code == GONE => return,
                Ok(WatchEvent::Error(status)) => {
                    tracing::debug!(kind = %K::kind(&()), %status, "watch refused");
                    break;
                }
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "watch ended early");
                    break;
                }
            }
            *backoff = BACKOFF;
        }
        tokio::time::sleep(BACKOFF).await;
    }
}
