//! Watch: a cursor over a kind's events, filtered and framed for one client.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    api::validation::{FieldError, Path},
    server::{
        Call, Inner,
        cache::{Event, EventType, Item},
        error::{Failure, Result},
        metrics::OneMore,
        object,
        read::revision_of,
        registry::Kind,
        respond::{Answer, Form, KindRef, accepts, transform},
        route::{Query, Target},
        selection::Selection,
        table::Headings,
    },
    store::{Prefix, Revision},
    watermark::Watermark,
};

/// How long a watch lasts if its client doesn't say; as in Kubernetes, between half an hour and an hour.
const WATCH_SECONDS_DEFAULT: u64 = 2_700;
/// The longest that a watch lasts, in seconds, whatever its client says: a day.
const WATCH_SECONDS_MAX: u64 = 86_400;
/// How often a watch that wants bookmarks gets one.
const BOOKMARK_SECONDS: u64 = 60;
/// How many events a watch takes out of the log at a time: what a slow client holds on to.
const EVENTS_MAX: usize = 64;
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
    ready: VecDeque<Ready>,
    changes: Arc<Watermark>,
    deadline: Instant,
    next_bookmark: Instant,
    ended: bool,
    sent: Counter,
    _counted: Option<OneMore>,
}

/// What is next for a client.
enum Ready {
    /// An object that was there at the start.
    Initial(Arc<Item>),
    Line(Bytes),
}

/// Where a watch starts (SEMANTICS 23).
struct Start {
    asked: Option<Revision>,
    /// Whether the objects there are come first; by default they do unless a revision is named.
    initial: Option<bool>,
}

impl Inner {
    pub(super) async fn watch(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let query = &call.query;
        let selection = Selection::parse(kind, query, target.name.as_deref())?;
        let start = start_of(query)?;
        let seconds = match query.number("timeoutSeconds")?.unwrap_or(0_i64) {
            ..=0 => WATCH_SECONDS_DEFAULT,
            seconds => seconds.unsigned_abs().min(WATCH_SECONDS_MAX),
        };
        let prefix = object::prefix(kind, target.namespace.as_deref())?;
        let (now, kind, shelf) = (Instant::now(), KindRef::of(kind), kind.shelf());
        let mut cursor = Cursor {
            inner: self.this(),
            changes: self.cache.changes(&shelf),
            sent: self.metrics.watch_events(&kind),
            kind,
            shelf,
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
            _counted: call.counted.take(),
        };
        cursor.start(&start).await?;
        let events = stream::unfold(cursor, |mut cursor| async move { Some((cursor.next().await?, cursor)) });
        Ok(Answer::Watch(events.boxed()))
    }
}

/// Reads what a request says of its start.
fn start_of(query: &Query) -> Result<Start> {
    let asked = revision_of(query)?;
    let initial = match query.value("sendInitialEvents") {
        "" => None,
        _ => Some(query.flag("sendInitialEvents")?),
    };
    let matching = query.value("resourceVersionMatch");
    let why = match (initial, matching) {
        (None, "") | (Some(_), "NotOlderThan") => return Ok(Start { asked, initial }),
        (None, _) => {
            ("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        }
        (Some(_), "") => {
            ("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (Some(_), other) => {
            let error = FieldError::not_supported(&Path::root("resourceVersionMatch"), other, &["NotOlderThan"]);
            return Err(Failure::invalid_options("ListOptions", &[error]));
        }
    };
    Err(Failure::invalid_options("ListOptions", &[FieldError::forbidden(&Path::root(why.0), why.1)]))
}

impl Cursor {
    /// Takes its place: after a revision, or behind the objects there are now.
    async fn start(&mut self, start: &Start) -> Result<()> {
        let streamed_list = start.initial == Some(true);
        match start.asked {
            Some(revision) if revision.0 > 0 && !streamed_list => {
                (self.position, self.told) = (revision, revision);
                // If it is too old the first line says so: a status code alone would not make a client list again.
                return Ok(());
            }
            Some(revision) => self.inner.reach(revision.max(Revision(1))).await?,
            None => self.inner.reach(self.inner.store.revision().await?).await?,
        }
        let view = self.inner.cache.view(&self.shelf, &self.prefix);
        (self.position, self.told) = (view.revision, view.revision);
        if start.initial != Some(false) {
            let selected = view.items.into_iter().filter(|item| self.selection.matches(item));
            self.ready = selected.map(Ready::Initial).collect();
        }
        if streamed_list && self.bookmarks {
            let end = self.bookmark(json!({ "annotations": { INITIAL_EVENTS_END: "true" } }));
            self.ready.push_back(Ready::Line(end));
        }
        Ok(())
    }

    /// The next line; `None` once the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                self.sent.inc();
                return Some(match ready {
                    Ready::Initial(item) if self.form == Form::Full => item.added(),
                    Ready::Initial(item) => self.transformed(EventType::Added, &item.encoded),
                    Ready::Line(line) => line,
                });
            }
            if self.ended {
                return None;
            }
            match self.inner.cache.events(&self.shelf, self.position, EVENTS_MAX) {
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
            self.ended = now >= self.deadline || self.inner.draining.initialized();
            if self.bookmarks && (self.ended || now >= self.next_bookmark) {
                self.next_bookmark = now + Duration::from_secs(BOOKMARK_SECONDS);
                if self.position > self.told {
                    self.told = self.position;
                    return Some(self.bookmark(json!({})));
                }
            }
            if !self.ended {
                self.wait().await;
            }
        }
    }

    /// Waits for an event of its kind, for the next bookmark, or for the end.
    async fn wait(&mut self) {
        let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        tokio::select! {
            biased;
            _ = self.inner.draining.wait() => {}
            // Out of time is no error: the caller looks at the clock again.
            _ = timeout_at(wake, self.changes.reach(self.position.0 + 1)) => {}
        }
    }

    fn take(&mut self, events: &[Arc<Event>], complete: Revision) {
        for event in events {
            if let Some(event_type) = self.event_type(event) {
                let line = event.line(event_type);
                let line = match self.form {
                    Form::Full => line,
                    _ => self.transformed(event_type, &object_of(&line, event_type)),
                };
                self.ready.push_back(Ready::Line(line));
                self.told = event.revision;
            }
        }
        self.position = complete;
    }

    /// What an event is to this client: an object that enters its selection is added, one that leaves it is deleted.
    fn event_type(&self, event: &Event) -> Option<EventType> {
        let selected = |item: &Option<Arc<Item>>| {
            item.as_ref().is_some_and(|item| self.prefix.contains(&item.key) && self.selection.matches(item))
        };
        match (selected(&event.old), selected(&event.new)) {
            (false, false) => None,
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
        }
    }

    /// The line of an event in another form than the whole. The first table of a watch says what its columns are, and no
    /// other.
    fn transformed(&mut self, event_type: EventType, encoded: &Bytes) -> Bytes {
        let headings = std::mem::replace(&mut self.headings, Headings::LeftOut);
        event_type.line(&transform(&self.inner, self.registered(), self.form, encoded, headings))
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

/// The object in the line of an event.
fn object_of(line: &Bytes, event_type: EventType) -> Bytes {
    line.slice(event_type.head().len()..line.len() - 2)
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
