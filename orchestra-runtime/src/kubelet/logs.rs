//! Logs of a container, as `kubectl logs` asks for them.

use std::{convert::Infallible, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, future::ready};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use orchestra_core::{
    clock::Timestamp,
    runtime::{LogLine, LogOptions},
};

use super::{
    Shared,
    server::{Body, Place, Query, Refused},
    worker::names,
};
use crate::causes::chain;

/// Opens the log that a request asks for.
pub(super) async fn open(shared: &Shared, place: &Place, query: &Query) -> Result<Response<Body>, Refused> {
    let (pod, container) = (names(&place.pod).0, &place.container);
    let previous = query.is_set("previous");
    let attempt = if previous { place.previous() } else { place.attempts.last() };
    let missing = || match previous {
        true => format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"),
        false => format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {}", place.waits_for()),
    };
    let attempt = attempt.ok_or_else(|| Refused(StatusCode::BAD_REQUEST, missing()))?;
    let none = || Refused(StatusCode::NOT_IMPLEMENTED, "the container runtime keeps no logs".into());
    let logs = shared.runtime.logs().ok_or_else(none)?;
    let options = LogOptions {
        tail_lines: query.number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        since: since(shared, query)?,
        follow: query.is_set("follow"),
    };
    let timestamps = query.is_set("timestamps");
    let mut left = query.number("limitBytes")?.unwrap_or(u64::MAX);
    let failed = |error: orchestra_core::runtime::Error| Refused(StatusCode::INTERNAL_SERVER_ERROR, chain(&error));
    let lines = logs.open(&attempt.id, options).await.map_err(failed)?;
    let mut begins = true;
    let frames = lines
        .take_while(|line| ready(line.is_ok()))
        .filter_map(|line| ready(line.ok()))
        .map(move |line| {
            let text = render(&line, timestamps && begins);
            begins = line.complete;
            text
        })
        .scan((), move |(), text| {
            let room = usize::try_from(left).unwrap_or(usize::MAX);
            let text = text.slice(..text.len().min(room));
            left -= text.len() as u64;
            ready((room > 0).then_some(text))
        })
        .map(|text| Ok::<_, Infallible>(Frame::data(text)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn since(shared: &Shared, query: &Query) -> Result<Option<Timestamp>, Refused> {
    if let Some(seconds) = query.number("sinceSeconds")? {
        return Ok(shared.clock.now().checked_sub(Duration::from_secs(seconds)).ok());
    }
    let wrong = |_| Refused(StatusCode::BAD_REQUEST, "sinceTime must be a time as in RFC 3339".into());
    query.value("sinceTime").map(|time| time.parse::<Timestamp>().map_err(wrong)).transpose()
}

fn render(line: &LogLine, timestamp: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(line.text.len() + 32);
    if timestamp {
        out.put_slice(format!("{:.9} ", line.at).as_bytes());
    }
    out.put_slice(&line.text);
    if line.complete {
        out.put_u8(b'\n');
    }
    out.freeze()
}
