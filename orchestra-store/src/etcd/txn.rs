//! Transactions in etcd's terms.

use etcd_client::{Compare, CompareOp, GetOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse};
use orchestra_core::store::{Check, Error, Op, Result, Revision, Txn};

use super::keyspace::{Keyspace, number, revision};

/// The transaction for `txn`; if a check fails, it reads when each checked key was last written.
pub(super) fn request(keyspace: &Keyspace, txn: &Txn) -> EtcdTxn {
    let compare = |check: &Check| match check {
        Check::Absent(key) => Compare::create_revision(keyspace.at(key.as_str()), CompareOp::Equal, 0),
        Check::Unchanged(key, seen) => {
            // An absent key has 0 for etcd, and no key was written then.
            let seen = if seen.0 == 0 { i64::MAX } else { number(*seen) };
            Compare::mod_revision(keyspace.at(key.as_str()), CompareOp::Equal, seen)
        }
    };
    let write = |op: &Op| match op {
        Op::Put(key, value) => TxnOp::put(keyspace.at(key.as_str()), value.as_ref(), None),
        Op::Delete(key) => TxnOp::delete(keyspace.at(key.as_str()), None),
    };
    let read = |check: &Check| TxnOp::get(keyspace.at(check.key().as_str()), Some(GetOptions::new().with_keys_only()));
    EtcdTxn::new()
        .when(txn.checks.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.ops.iter().map(write).collect::<Vec<_>>())
        .or_else(txn.checks.iter().map(read).collect::<Vec<_>>())
}

/// What `response` to the request for `txn` came to.
pub(super) fn outcome(txn: &Txn, response: &TxnResponse) -> Result<Revision> {
    if response.succeeded() {
        return Ok(revision(response.header().map_or(0, |header| header.revision())));
    }
    for (check, read) in txn.checks.iter().zip(response.op_responses()) {
        let TxnOpResponse::Get(read) = read else { continue };
        check.hold(read.kvs().first().map(|pair| revision(pair.mod_revision())))?;
    }
    Err(Error::Unavailable("etcd refused a transaction whose checks hold".into()))
}
