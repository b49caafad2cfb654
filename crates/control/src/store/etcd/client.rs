//! Calls to etcd: which member is asked, for how long, and in whose name.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::etcd::AuthenticateRequest;
use api::etcd::auth_client::AuthClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::Options;
use crate::store::StoreError;

/// A connection takes at most so long.
const CONNECT: Duration = Duration::from_secs(2);

/// The members of an etcd cluster. Connections are made when they are used.
pub(super) struct Client {
    members: Vec<(String, Channel)>,
    /// Whom to ask next: the last one that answered.
    at: AtomicUsize,
    options: Options,
    /// What etcd gave us for our name and password.
    token: Mutex<Option<AsciiMetadataValue>>,
}

impl Client {
    pub fn new(options: Options) -> Result<Client, StoreError> {
        let member = |address: &String| {
            let wrong = |e| StoreError::Failed(format!("etcd {address}: {e}"));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(wrong)?;
            let channel = endpoint
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(2))
                .connect_lazy();
            Ok((address.clone(), channel))
        };
        let members = options.members.iter().map(member).collect::<Result<_, StoreError>>()?;
        Ok(Client { members, at: AtomicUsize::new(0), options, token: Mutex::default() })
    }

    /// One attempt at one member. After a failure the next call goes to the next member.
    pub async fn once<Q, R, F, Fut>(&self, request: Q, call: F) -> Result<R, StoreError>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let at = self.at.load(Ordering::Relaxed);
        let (address, channel) = &self.members[at % self.members.len()];
        let attempt = async {
            let status = match call(channel.clone(), self.signed(request.clone())).await {
                Err(status) if self.is_unknown_to(&status) => status,
                answer => return answer,
            };
            // It was not carried out: etcd does not know us (any more).
            tracing::debug!("etcd {address}: {}; giving the name and password", status.message());
            self.authenticate(channel.clone()).await?;
            call(channel.clone(), self.signed(request)).await
        };
        let limit = self.options.limit;
        let silent = |_| Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs_f32()));
        match tokio::time::timeout(limit, attempt).await.map_err(silent).and_then(|answer| answer) {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                // Another call may have gone on to the next already.
                let _ = self.at.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
                Err(StoreError::Failed(format!("etcd {address}: {}", cause(&status))))
            }
        }
    }

    /// Asks each member until one answers; for what may be asked twice.
    pub async fn again<Q, R, F, Fut>(&self, request: Q, call: F) -> Result<R, StoreError>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let mut last = self.once(request.clone(), &call).await;
        for _ in 1..self.members.len().max(2) {
            if last.is_ok() {
                break;
            }
            last = self.once(request.clone(), &call).await;
        }
        last
    }

    fn signed<Q>(&self, request: Q) -> Request<Q> {
        let mut request = Request::new(request);
        if let Some(token) = self.token.lock().expect("nobody panics while holding the token").clone() {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    /// Whether etcd wants to know who we are, and we can say it. Its words for an old token come with several codes.
    fn is_unknown_to(&self, status: &Status) -> bool {
        let tells = |text| status.message().contains(text);
        self.options.user.is_some()
            && (status.code() == Code::Unauthenticated
                || tells("invalid auth token")
                || tells("user name is empty")
                || tells("revision of auth store is old"))
    }

    async fn authenticate(&self, channel: Channel) -> Result<(), Status> {
        let Some((name, password)) = self.options.user.clone() else { return Ok(()) };
        let answer = AuthClient::new(channel).authenticate(AuthenticateRequest { name, password }).await?;
        let token = answer.into_inner().token.parse();
        let token = token.map_err(|_| Status::internal("etcd's token is no text"))?;
        *self.token.lock().expect("nobody panics while holding the token") = Some(token);
        Ok(())
    }
}

/// What the system said where the transport failed, else what etcd said.
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
