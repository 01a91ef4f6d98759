//! Commands in containers over a WebSocket, as `kubectl exec` speaks it: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! A binary message is a channel's number and its bytes: 0 to the command, 1 and 2 from it, 3 how it ended, 4 the size
//! of its terminal; in version 5, 255 and a channel's number closes that channel (KEP-4006).

use std::{pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use orchestra_core::runtime::{ExecSession, ExecSpec, TerminalSize};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{
    Shared,
    server::{Body, Place, Query, Refused, full},
    worker::names,
};
use crate::causes::chain;

/// The protocols spoken, the best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// How many bytes of output go in one message.
const MESSAGE_BYTES_MAX: usize = 32 << 10;
/// How many messages wait for the network; the command waits when there are more.
const MESSAGES_MAX: usize = 16;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The size of a terminal, as kubectl sends it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Starts the command that a request asks for, and joins it with the stream that the connection becomes.
pub(super) async fn open(
    shared: &Arc<Shared>,
    place: &Place,
    query: &Query,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Refused> {
    let bad = |message: &str| Refused(StatusCode::BAD_REQUEST, message.into());
    // Before the protocol: a client that is refused tries another one, and shows what it hears last.
    let pod = names(&place.pod).0;
    let idle = || bad(&format!("container {} of pod {pod} is not running", place.container));
    let id = place.running().ok_or_else(idle)?.clone();
    let spec = ExecSpec {
        command: query.values("command").map(Into::into).collect(),
        stdin: query.is_set("stdin"),
        tty: query.is_set("tty"),
    };
    if spec.command.is_empty() {
        return Err(bad("you must specify at least 1 command for the container"));
    }
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("a WebSocket is wanted"))?;
    let upgrade = upgrade.ok_or_else(|| bad("this connection can't be upgraded"))?;
    let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<_> = offered.flat_map(|value| value.split(',')).map(str::trim).collect();
    let protocol = PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol));
    let protocol = protocol.ok_or_else(|| bad("none of the WebSocket protocols offered is spoken here"))?;
    let accept = derive_accept_key(key.as_bytes());
    let shared = Arc::clone(shared);
    // Ends with its connection, and the command with it.
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let session = match shared.runtime.exec() {
            Some(exec) => exec.exec(&id, &spec).await.map_err(|error| chain(&error)),
            None => Err("the container runtime can't run commands".into()),
        };
        serve(socket, session).await;
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&accept).expect("an accept key is base64");
    for (name, value) in [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
    ] {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The end of a stream that has said all: without a code a client takes it for broken off.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Joins a command with its stream until it has ended and all it wrote is sent.
async fn serve<S>(socket: WebSocketStream<S>, session: Result<ExecSession, String>)
where
    S: AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sink, mut source) = socket.split();
    let ExecSession { stdin, stdout, stderr, control } = match session {
        Ok(session) => session,
        Err(message) => {
            let _ = sink.send(message_of(ERROR, failure(&message).to_string().as_bytes())).await;
            let _ = sink.send(goodbye()).await;
            return;
        }
    };
    let (messages, mut queued) = mpsc::channel(MESSAGES_MAX);
    let output = async {
        let copies = async {
            tokio::join!(copy(STDOUT, Some(stdout), &messages), copy(STDERR, stderr, &messages));
        };
        let (code, ()) = tokio::join!(control.wait(), copies);
        let status = match code {
            Ok(code) => exit_status(code),
            Err(error) => failure(&chain(&error)),
        };
        let _ = messages.send(message_of(ERROR, status.to_string().as_bytes())).await;
        let _ = messages.send(goodbye()).await;
    };
    let sending = async {
        while let Some(message) = queued.recv().await {
            let last = message.is_close();
            if sink.send(message).await.is_err() || last {
                return;
            }
        }
    };
    let input = async {
        let mut stdin = stdin;
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(bytes) = message else { continue };
            match bytes.split_first() {
                Some((&STDIN, data)) => {
                    if let Some(open) = &mut stdin
                        && open.write_all(data).await.is_err()
                    {
                        stdin = None;
                    }
                    if let Some(open) = &mut stdin {
                        let _ = open.flush().await;
                    }
                }
                Some((&RESIZE, data)) => {
                    if let Ok(Size { width, height }) = serde_json::from_slice(data) {
                        let _ = control.resize(TerminalSize { width, height }).await;
                    }
                }
                Some((&CLOSE, [STDIN])) => stdin = None,
                _ => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = async { tokio::join!(output, sending); } => {}
        // The other side left: dropping the session ends the command.
        () = input => {}
    }
}

async fn copy(channel: u8, stream: Option<Pin<Box<dyn AsyncRead + Send>>>, messages: &mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if messages.send(message_of(channel, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

fn message_of(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(Bytes::from(bytes))
}

/// How a command ended, as kubectl reads it.
fn exit_status(code: i32) -> serde_json::Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(message: &str) -> serde_json::Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500})
}

#[cfg(test)]
mod tests {
    use super::exit_status;

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        assert_eq!(exit_status(0)["status"], "Success");
        assert_eq!(exit_status(7)["details"]["causes"][0]["message"], "7");
    }
}
