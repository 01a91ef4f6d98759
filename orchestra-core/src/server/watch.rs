//! Watch: a cursor over a kind's events, filtered and framed for one client.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    server::{
        Call, Inner,
        cache::{Event, Item},
        error::{Failure, Result},
        object,
        read::revision_of,
        registry::Kind,
        respond::{Answer, Form, KindRef, accepts, transform},
        route::Target,
        selection::Selection,
        table::Headings,
    },
    store::{Prefix, Revision},
};

/// How long a watch lasts if its client doesn't say; as in Kubernetes, between half an hour and an hour.
const WATCH_SECONDS_DEFAULT: u64 = 2_700;
/// How often a watch that wants bookmarks gets one.
const BOOKMARK_SECONDS: u64 = 60;
/// The annotation of the bookmark that ends a streamed list (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One client's watch.
struct Cursor {
    inner: Arc<Inner>,
    kind: KindRef,
    shelf: String,
    prefix: Prefix,
    selection: Selection,
    form: Form,
    headings: Headings,
    bookmarks: bool,
    /// Everything up to here has been sent or is in `ready`.
    position: Revision,
    /// The last bookmark, or the last event.
    told: Revision,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    next_bookmark: Instant,
    ended: bool,
}

impl Inner {
    pub(super) async fn watch(&self, kind: &Kind, target: &Target, call: Call) -> Result<Answer> {
        let query = &call.query;
        let selection = Selection::parse(kind, query, target.name.as_deref())?;
        let asked = revision_of(query)?;
        let send_initial = query.value("sendInitialEvents");
        let streamed_list = query.flag("sendInitialEvents")?;
        if !send_initial.is_empty() && query.value("resourceVersionMatch") != "NotOlderThan" {
            let message =
                "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Failure::bad_request(message));
        }
        let seconds = query.number("timeoutSeconds")?.unwrap_or(WATCH_SECONDS_DEFAULT);
        let prefix = object::prefix(kind, target.namespace.as_deref())?;
        let now = Instant::now();
        let mut cursor = Cursor {
            inner: self.this(),
            kind: KindRef::of(kind),
            shelf: kind.shelf(),
            prefix,
            selection,
            form: accepts(&call.parts)?.form,
            headings: Headings::Told,
            bookmarks: query.flag("allowWatchBookmarks")?,
            position: Revision(0),
            told: Revision(0),
            ready: VecDeque::new(),
            deadline: now + Duration::from_secs(seconds),
            next_bookmark: now + Duration::from_secs(BOOKMARK_SECONDS),
            ended: false,
        };
        cursor.start(asked, streamed_list, !send_initial.is_empty()).await?;
        let events = stream::unfold(cursor, |mut cursor| async move { Some((cursor.next().await?, cursor)) });
        Ok(Answer::Watch(events.boxed()))
    }
}

impl Cursor {
    /// Takes its place: after a revision, or behind the objects there are now (SEMANTICS 23).
    async fn start(&mut self, asked: Option<Revision>, streamed_list: bool, said: bool) -> Result<()> {
        match asked {
            Some(revision) if revision.0 > 0 && !streamed_list => {
                self.position = revision;
                self.told = revision;
                if let Err(floor) = self.inner.cache.events(&self.shelf, revision) {
                    return Err(Failure::too_old(revision, floor));
                }
                return Ok(());
            }
            Some(revision) if revision.0 > 0 => self.inner.reach(revision).await?,
            Some(_) => self.inner.cache.reach(Revision(1)).await,
            None => self.inner.cache.reach(self.inner.store.revision().await?).await,
        }
        let view = self.inner.cache.view(&self.shelf, &self.prefix);
        (self.position, self.told) = (view.revision, view.revision);
        // Without a word about initial events, a watch from "now" or from any revision starts with what is there.
        if streamed_list || !said {
            for item in &view.items {
                if self.selection.matches(item) {
                    let frame = self.frame("ADDED", &item.encoded);
                    self.ready.push_back(frame);
                }
            }
        }
        if streamed_list && self.bookmarks {
            let frame = self.bookmark(json!({ "annotations": { INITIAL_EVENTS_END: "true" } }));
            self.ready.push_back(frame);
        }
        Ok(())
    }

    /// The next frame; `None` once the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            match self.inner.cache.events(&self.shelf, self.position) {
                Ok((events, complete)) => self.take(&events, complete),
                Err(floor) => {
                    self.ended = true;
                    let failure = Failure::too_old(self.position, floor);
                    let status = json!({ "type": "ERROR", "object": failure.status() });
                    return Some(line(&status));
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= self.deadline {
                return None;
            }
            if self.bookmarks && now >= self.next_bookmark {
                self.next_bookmark = now + Duration::from_secs(BOOKMARK_SECONDS);
                if self.position > self.told {
                    self.told = self.position;
                    return Some(self.bookmark(json!({})));
                }
            }
            let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            let next = Revision(self.position.0 + 1);
            // Out of time is no error: the loop looks at the clock again.
            let _ = timeout_at(wake, self.inner.cache.reach(next)).await;
        }
    }

    fn take(&mut self, events: &[Arc<Event>], complete: Revision) {
        for event in events {
            if let Some(frame) = self.event(event) {
                self.ready.push_back(frame);
                self.told = event.revision;
            }
        }
        self.position = complete;
    }

    /// What an event is to this client: an object that enters its selection is added, one that leaves it is deleted.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let selected = |item: &Option<Arc<Item>>| {
            item.as_ref().filter(|item| self.prefix.contains(&item.key) && self.selection.matches(item)).cloned()
        };
        match (selected(&event.old), selected(&event.new)) {
            (None, None) => None,
            (None, Some(new)) => Some(self.frame("ADDED", &new.encoded)),
            (Some(_), Some(new)) => Some(self.frame("MODIFIED", &new.encoded)),
            // The object as it last was, with the revision at which it went.
            (Some(old), None) => {
                let last = event.new.as_ref().unwrap_or(&old);
                let mut object: Value = serde_json::from_slice(&last.encoded).unwrap_or_default();
                object["metadata"]["resourceVersion"] = event.revision.0.to_string().into();
                Some(self.frame("DELETED", &Bytes::from(object.to_string())))
            }
        }
    }

    /// The first table of a watch says what its columns are, and no other.
    fn frame(&mut self, kind_of_event: &str, encoded: &Bytes) -> Bytes {
        let headings = std::mem::replace(&mut self.headings, Headings::LeftOut);
        let encoded = transform(&self.inner, self.registered(), self.form, encoded, headings);
        let mut frame = Vec::with_capacity(encoded.len() + 32);
        frame.extend_from_slice(b"{\"type\":\"");
        frame.extend_from_slice(kind_of_event.as_bytes());
        frame.extend_from_slice(b"\",\"object\":");
        frame.extend_from_slice(&encoded);
        frame.extend_from_slice(b"}\n");
        frame.into()
    }

    fn bookmark(&self, meta: Value) -> Bytes {
        let kind = self.registered();
        let mut meta = meta;
        meta["resourceVersion"] = self.position.0.to_string().into();
        let object = match self.form {
            Form::Full => json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta }),
            Form::Table(_) => {
                json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [],
                "rows": [] })
            }
            Form::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta })
            }
        };
        line(&json!({ "type": "BOOKMARK", "object": object }))
    }

    fn registered(&self) -> &Kind {
        let kind = &self.kind;
        self.inner.registry.find(kind.group, kind.version, kind.plural).expect("watches are of known kinds")
    }
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
