//! The members of the cluster, and which one to ask.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, Error as ClientError};
use orchestra_core::store::{Error, Result};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    EtcdOptions,
    error::{Fault, fault, translate},
};

/// How long to wait when no member answered.
const RETRY: Duration = Duration::from_millis(50);

/// For how many attempts there is time in one call, if there are so many members, or less to be asked for.
const ATTEMPTS: usize = 3;

/// A client for each member; one is asked until it fails.
pub(super) struct Members {
    clients: Vec<OnceCell<Client>>,
    current: AtomicUsize,
    options: EtcdOptions,
}

/// Whether a call may be made again when its outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Safe,
    Unsafe,
    /// Only with less to answer, if the time that one member has for it was not enough.
    Smaller,
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let options = options.bounded();
        let clients = options.endpoints.iter().map(|_| OnceCell::new()).collect();
        Self { clients, current: AtomicUsize::new(0), options }
    }

    pub(super) fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// The client of the member in use, and its number.
    async fn client(&self) -> Result<(usize, Client), ClientError> {
        let number = self.current.load(Ordering::Relaxed);
        let (Some(cell), Some(endpoint)) = (self.clients.get(number), self.options.endpoints.get(number)) else {
            return Err(ClientError::InvalidArgs("no endpoint is given".into()));
        };
        let connect = || Client::connect([endpoint], Some(self.options.connect_options()));
        cell.get_or_try_init(connect).await.map(|client| (number, client.clone()))
    }

    /// Uses the next member from now on, unless somebody else has moved on from `failed` already.
    fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.clients.len().max(1);
        // Losing the race means that it has been left.
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Calls one member after another, until one answers or the request's time is over.
    ///
    /// The outer error is one that no other member would get over; the inner is what etcd answered otherwise.
    pub(super) async fn call<T, F>(&self, repeat: Repeat, call: impl Fn(Client) -> F) -> Result<Result<T, Fault>>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let deadline = Instant::now() + self.options.request_timeout;
        // Leaves time for another member when one hangs.
        let least = if repeat == Repeat::Smaller { ATTEMPTS } else { 1 };
        let share = u32::try_from(self.clients.len().clamp(least, ATTEMPTS)).unwrap_or(1);
        // How many in a row can't be waited for.
        let mut wrong = 0;
        loop {
            let number = self.current.load(Ordering::Relaxed);
            let attempt = async {
                let (_, client) = self.client().await?;
                call(client).await
            };
            let limit = deadline.min(Instant::now() + self.options.request_timeout / share);
            let (error, fault) = match timeout_at(limit, attempt).await {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(error)) => {
                    let fault = fault(&error);
                    (translate(error), fault)
                }
                Err(_) if repeat == Repeat::Smaller => {
                    self.leave(number);
                    return Ok(Err(Fault::NoAnswer));
                }
                Err(elapsed) => (Error::Unavailable(elapsed.into()), Fault::Unknown),
            };
            match fault {
                Fault::Compacted | Fault::AnswerTooLarge | Fault::NoAnswer => return Ok(Err(fault)),
                Fault::Refused | Fault::RequestTooLarge | Fault::TooManyOperations => return Err(error),
                Fault::WrongEndpoint if wrong + 1 >= self.clients.len() => return Err(error),
                Fault::NotCarriedOut | Fault::Unknown | Fault::WrongEndpoint => self.leave(number),
            }
            if fault == Fault::WrongEndpoint {
                wrong += 1;
                continue;
            }
            wrong = 0;
            let hopeless = fault == Fault::Unknown && repeat == Repeat::Unsafe;
            if hopeless || Instant::now() + RETRY >= deadline {
                return Err(error);
            }
            tracing::debug!(endpoint = number, error = &error as &dyn std::error::Error, "asking another member");
            sleep(RETRY).await;
        }
    }

    /// Opens a watch on the member in use; moves on from it if that fails.
    pub(super) async fn open<T, F>(&self, open: impl FnOnce(Client) -> F) -> Result<(usize, T), ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let number = self.current.load(Ordering::Relaxed);
        let attempt = async {
            let (_, client) = self.client().await?;
            open(client).await
        };
        let opened = timeout(self.options.request_timeout, attempt).await;
        let opened = opened.unwrap_or_else(|_| Err(ClientError::WatchError("no answer in time".into())));
        if opened.is_err() {
            self.leave(number);
        }
        opened.map(|opened| (number, opened))
    }

    /// A watch on the member `number` broke.
    pub(super) fn broke(&self, number: usize) {
        self.leave(number);
    }
}
