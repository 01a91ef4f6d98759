//! What a failed call to etcd means.

use std::error::Error as _;

use etcd_client::Error as ClientError;
use orchestra_core::store::Error;
use tonic::Code;

/// What can be done about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was not carried out: any member may be asked again.
    NotCarriedOut,
    /// Whether it was carried out is not known: what only reads may be asked again.
    Unknown,
    /// The same call would be refused again.
    Refused,
    /// It was not carried out, for what the endpoint names is no etcd: another may be.
    WrongEndpoint,
    /// It asked for history that is compacted.
    Compacted,
    /// It asked for more in one answer than the client takes, or the server sends.
    AnswerTooLarge,
    /// No answer came in the time that one member has for it.
    NoAnswer,
    /// It has more bytes than the server takes.
    RequestTooLarge,
    /// It has more operations than the server takes.
    TooManyOperations,
}

/// Tells what `error` means; by etcd's messages, where its codes say too little.
pub(super) fn fault(error: &ClientError) -> Fault {
    let ClientError::GRpcStatus(status) = error else { return Fault::WrongEndpoint };
    let message = status.message();
    // A web server's refusal; what it does with what it takes is not known.
    let speaks_grpc = !message.contains("grpc-status header missing");
    match status.code() {
        Code::OutOfRange if message.contains("compacted") => Fault::Compacted,
        Code::OutOfRange if message.contains("message length too large") => Fault::AnswerTooLarge,
        Code::ResourceExhausted if message.contains("trying to send message larger than max") => Fault::AnswerTooLarge,
        Code::InvalidArgument if message.contains("request is too large") => Fault::RequestTooLarge,
        Code::ResourceExhausted if message.contains("larger than max") => Fault::RequestTooLarge,
        Code::InvalidArgument if message.contains("too many operations") => Fault::TooManyOperations,
        Code::Unimplemented => Fault::WrongEndpoint,
        Code::PermissionDenied | Code::Unauthenticated if !speaks_grpc => Fault::WrongEndpoint,
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => Fault::Refused,
        Code::FailedPrecondition => Fault::Refused,
        Code::ResourceExhausted if message.contains("database space exceeded") => Fault::Refused,
        Code::ResourceExhausted if message.contains("too many requests") => Fault::NotCarriedOut,
        Code::Unavailable if message.contains("no leader") || never_connected(status) => Fault::NotCarriedOut,
        _ => Fault::Unknown,
    }
}

/// Whether the call failed before there was a connection to send it on.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The contract's error for `error`, which can't be got over.
pub(super) fn translate(error: ClientError) -> Error {
    match fault(&error) {
        Fault::RequestTooLarge => Error::Invalid("it is larger than etcd takes (--max-request-bytes)"),
        Fault::TooManyOperations => Error::Invalid("it has more operations than etcd takes (--max-txn-ops)"),
        _ => Error::Unavailable(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::Error as ClientError;
    use tonic::{Code, Status};

    use super::{Fault, fault};

    #[test]
    fn what_may_have_happened_is_told_from_what_has_not() {
        let of = |code, message: &str| fault(&ClientError::GRpcStatus(Status::new(code, message)));
        assert_eq!(of(Code::Unavailable, "etcdserver: no leader"), Fault::NotCarriedOut);
        assert_eq!(of(Code::Unavailable, "etcdserver: request timed out"), Fault::Unknown);
        assert_eq!(of(Code::Unavailable, "etcdserver: leader changed"), Fault::Unknown);
        assert_eq!(of(Code::InvalidArgument, "etcdserver: request is too large"), Fault::RequestTooLarge);
        let sent = "grpc: trying to send message larger than max (3 vs. 2)";
        assert_eq!(of(Code::ResourceExhausted, sent), Fault::AnswerTooLarge);
        let received = "grpc: received message larger than max (3 vs. 2)";
        assert_eq!(of(Code::ResourceExhausted, received), Fault::RequestTooLarge);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(of(Code::OutOfRange, compacted), Fault::Compacted);
        assert_eq!(of(Code::PermissionDenied, "etcdserver: permission denied"), Fault::Refused);
        let forbidden = "grpc-status header missing, mapped from HTTP status code 403";
        assert_eq!(of(Code::PermissionDenied, forbidden), Fault::WrongEndpoint);
    }
}
