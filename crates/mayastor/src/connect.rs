//! Connections of the client commands, and what their failures mean to a person.

use std::collections::VecDeque;
use std::time::Duration;

use ::access::{Channel, Dial};
use api::v0::bdev_rpc_client::BdevRpcClient;
use api::v0::mayastor_client::MayastorClient;
use api::v1::control_client::ControlClient;
use api::v1::engine_client::EngineClient;
use api::v1::leadership_client::LeadershipClient;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};

use crate::access::Credentials;
use crate::failure::Failure;
use crate::output::Output;

/// The largest answer that is accepted: ten thousand replicas fit well.
const ANSWER_BYTES: usize = 64 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a leader is looked for.
const FIND: Duration = Duration::from_secs(10);

/// What all client commands need.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address of the engine.
    pub engine: String,
    /// The address of the control plane; of several, separated by commas.
    pub control: String,
    /// How long a call may take.
    pub timeout: Duration,
    /// What is shown to them.
    pub credentials: Credentials,
    /// How to print.
    pub output: Output,
}

/// Who is on the other side.
#[derive(Clone, Debug)]
pub struct Peer {
    role: &'static str,
    address: String,
}

/// A connection to an engine.
pub struct Engine {
    peer: Peer,
    channel: Channel,
}

/// A connection to the control plane.
pub struct Control {
    peer: Peer,
    channel: Channel,
}

impl Client {
    /// Connects to the engine.
    pub async fn engine(&self) -> Result<Engine, Failure> {
        let peer = Peer { role: "engine", address: with_port(&self.engine, api::ENGINE_PORT)? };
        let channel = peer.connect(&self.credentials.dial()?, Some(self.timeout)).await?;
        Ok(Engine { peer, channel })
    }
    /// Connects to the control plane.
    pub async fn control(&self) -> Result<Control, Failure> {
        self.control_within(Some(self.timeout)).await
    }
    /// Connects to the control plane for answers that come without end.
    pub async fn control_stream(&self) -> Result<Control, Failure> {
        self.control_within(None).await
    }
    /// Connects to the engine for answers that come without end.
    pub async fn engine_stream(&self) -> Result<Engine, Failure> {
        let peer = Peer { role: "engine", address: with_port(&self.engine, api::ENGINE_PORT)? };
        let channel = peer.connect(&self.credentials.dial()?, None).await?;
        Ok(Engine { peer, channel })
    }
    /// Connects to the control plane that leads: of several any may be named, one that stands by says where the leader is.
    async fn control_within(&self, timeout: Option<Duration>) -> Result<Control, Failure> {
        let dial = self.credentials.dial()?;
        let named = addresses(&self.control)?;
        let until = tokio::time::Instant::now() + FIND;
        loop {
            let mut trouble = None;
            let mut ask = named.clone();
            while let Some(address) = ask.pop_front() {
                let peer = Peer { role: "control plane", address };
                let leader = match peer.connect(&dial, timeout).await {
                    Ok(channel) => match who_leads(&channel).await {
                        Ok(None) => return Ok(Control { peer, channel }),
                        Ok(Some(leader)) => leader,
                        Err(status) => {
                            trouble.get_or_insert(peer.failed(&status));
                            continue;
                        }
                    },
                    Err(failure) => {
                        trouble.get_or_insert(failure);
                        continue;
                    }
                };
                if leader.grpc_endpoint.is_empty() {
                    let why = if leader.trouble.is_empty() { "one is being chosen".into() } else { leader.trouble };
                    trouble = Some(Failure::unreachable(format!("no control plane leads at the moment: {why}")));
                } else if !named.contains(&leader.grpc_endpoint) && !ask.contains(&leader.grpc_endpoint) {
                    ask.push_back(leader.grpc_endpoint);
                }
            }
            // One that is away is away; one that stands by will lead, or know who does.
            let trouble = trouble.unwrap_or_else(|| Failure::unreachable("no control plane leads at the moment"));
            if named.len() == 1 && !trouble.to_string().contains("leads") || tokio::time::Instant::now() > until {
                return Err(trouble);
            }
            tokio::time::sleep(FIND / 20).await;
        }
    }
}

/// The addresses of the control planes that a user names.
pub fn addresses(text: &str) -> Result<VecDeque<String>, Failure> {
    text.split(',').map(|one| with_port(one.trim(), api::CONTROL_PORT)).collect()
}

/// Who leads, when it is another one. A control plane that does not know the question is the only one.
async fn who_leads(channel: &Channel) -> Result<Option<api::v1::Leader>, Status> {
    let mut client = LeadershipClient::new(channel.clone());
    match tokio::time::timeout(CONNECT, client.get_leader(api::v1::Empty {})).await {
        Ok(Ok(answer)) => Ok(Some(answer.into_inner()).filter(|leader| !leader.here)),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("it does not say who leads")),
    }
}

macro_rules! stub {
    ($(#[$doc:meta])* $name:ident $client:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES)
        }
    };
}

impl Engine {
    stub!(
        /// v0.3.0's calls.
        v0 MayastorClient
    );
    stub!(
        /// v0.3.0's calls about block devices.
        bdev BdevRpcClient
    );
    stub!(
        /// The calls beyond v0.3.0.
        v1 EngineClient
    );
    /// The answer, or what a person should know about its absence.
    pub fn check<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        self.peer.check(answer)
    }
    /// That something which the command names is not there.
    pub fn missing(&self, what: impl std::fmt::Display) -> Failure {
        Failure::not_found(format!("{what} not found ({})", self.peer))
    }
    /// The address that is connected.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Control {
    stub!(
        /// Its calls.
        v1 ControlClient
    );
    /// The answer, or what a person should know about its absence.
    pub fn check<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        self.peer.check(answer)
    }
    /// The address that is connected.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.role, self.address)
    }
}

impl Peer {
    async fn connect(&self, dial: &Dial, timeout: Option<Duration>) -> Result<Channel, Failure> {
        let wrong = |why| Failure::usage(format!("{:?} is not an address: {why}", self.address));
        let mut endpoint = Endpoint::from_shared(format!("http://{}", self.address)).map_err(|e| wrong(root(&e)))?;
        endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        if let Some(timeout) = timeout {
            endpoint = endpoint.timeout(timeout);
        }
        dial.connect(&endpoint)
            .await
            .map_err(|error| Failure::unreachable(format!("cannot connect to the {self}: {}", root(&error))))
    }

    /// The answer, or what a person should know about its absence.
    pub fn check<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        answer.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// What a status means to a person.
    pub fn failed(&self, status: &Status) -> Failure {
        let message = status.message();
        if let Some(cause) = std::error::Error::source(status) {
            return match status.code() {
                Code::Cancelled | Code::DeadlineExceeded => {
                    Failure::unreachable(format!("no answer in time from the {self}; the call may still take effect"))
                }
                _ => Failure::unreachable(format!("lost the connection to the {self}: {}", root(cause))),
            };
        }
        match status.code() {
            Code::NotFound => Failure::not_found(format!("{message} ({self})")),
            Code::Unimplemented => {
                Failure::failed(format!("the {self} does not know this call; is it of another version?"))
            }
            Code::Cancelled | Code::DeadlineExceeded => {
                Failure::unreachable(format!("no answer in time from the {self}; the call may still take effect"))
            }
            Code::Unauthenticated | Code::PermissionDenied => Failure::failed(format!("refused: {message} ({self})")),
            _ if message.is_empty() => Failure::failed(format!("{} ({self})", status.code().description())),
            _ => Failure::failed(format!("{message} ({self})")),
        }
    }
}

/// What went wrong: what the system says where the transport failed, else what the other side says.
pub fn said(status: &Status) -> String {
    std::error::Error::source(status).map_or_else(|| status.message().to_owned(), root)
}

/// The innermost reason.
pub fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // The number says nothing that the words do not.
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// `host:port` from what a user writes: a host, a host with a port, an IPv6 address in brackets or bare, with or
/// without `http://`.
pub fn with_port(address: &str, port: u16) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::usage(format!("{address:?} is not an address: {why}"));
    let text = address.strip_prefix("http://").unwrap_or(address);
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Err(wrong("it is empty"));
    }
    if text.contains(['/', ' ', '@', '?', '#']) {
        return Err(wrong("write host or host:port"));
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]:{port}"));
    }
    let after_host = text.rfind(']').map_or(0, |end| end + 1);
    match text[after_host..].rsplit_once(':') {
        None if text.starts_with('[') && !text.ends_with(']') => Err(wrong("write [IPv6 address]:port")),
        None => Ok(format!("{text}:{port}")),
        Some((host, number)) => {
            if host.contains(':') || (host.is_empty() && after_host == 0) {
                return Err(wrong("write host:port, with an IPv6 address in brackets"));
            }
            match number.parse::<u16>() {
                Ok(port) if port > 0 => Ok(text.to_owned()),
                _ => Err(wrong("the port is a number from 1 to 65535")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        for (text, full) in [
            ("127.0.0.1", "127.0.0.1:10124"),
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("node-1.example", "node-1.example:10124"),
            ("http://node-1:8/", "node-1:8"),
            ("::1", "[::1]:10124"),
            ("[::1]", "[::1]:10124"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(with_port(text, 10124).expect(text), full);
        }
    }

    #[test]
    fn wrong_addresses_are_refused() {
        for text in
            ["", "http://", "a:b", "a:0", "a:65536", ":10124", "a/b", "a b", "x@y", "[::1", "[::1]:x", "1:2:3:x"]
        {
            let failure = with_port(text, 10124).expect_err(text);
            assert!(matches!(failure, Failure::Said(crate::failure::Exit::Usage, _)), "{text}");
        }
    }

    #[test]
    fn a_status_becomes_a_sentence_with_the_peer() {
        let peer = Peer { role: "engine", address: "127.0.0.1:10124".into() };
        assert_eq!(
            peer.failed(&Status::not_found("pool \"p1\" not found")).to_string(),
            "pool \"p1\" not found (engine 127.0.0.1:10124)"
        );
        assert!(matches!(peer.failed(&Status::not_found("x")), Failure::Said(crate::failure::Exit::NotFound, _)));
        assert!(matches!(peer.failed(&Status::unavailable("x")), Failure::Said(crate::failure::Exit::Failed, _)));
        assert!(matches!(
            peer.failed(&Status::deadline_exceeded("x")),
            Failure::Said(crate::failure::Exit::Unreachable, _)
        ));
    }
}
