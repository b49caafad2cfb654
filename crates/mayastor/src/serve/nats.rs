//! Registration over NATS, for control planes of v0.3.0: subject `register` with `{"id", "grpcEndpoint"}` at once and every few
//! seconds, `deregister` with `{"id"}` at the end.
//!
//! Of NATS' text protocol this needs six words, so it is written here: a whole client library would bring a TLS stack and
//! much else into the engine, for two messages that nobody answers.

use std::io;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long the server has to take a connection, and at the end to take the last message.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest line of a server that is believed; INFO has some hundred bytes.
const LINE_BYTES: u64 = 64 << 10;

/// What is registered, and where.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The server: `host:port`.
    pub server: String,
    /// The name of the node.
    pub node: String,
    /// Where its gRPC services are.
    pub endpoint: String,
    /// The pause between two messages, and between two attempts to reach the server.
    pub interval: Duration,
}

/// Keeps the node registered until it stops, then takes it back.
pub async fn register(registration: Registration, mut stopping: watch::Receiver<bool>) {
    let mut trouble = String::new();
    loop {
        match session(&registration, &mut stopping).await {
            Ok(()) => return,
            Err(error) => {
                let now = error.to_string();
                if now != trouble {
                    tracing::warn!("NATS at {}: {now}; it is tried again", registration.server);
                }
                trouble = now;
            }
        }
        if tokio::time::timeout(registration.interval, stopped(&mut stopping)).await.is_ok() {
            return;
        }
    }
}

/// Waits until the node stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn message(subject: &str, body: &serde_json::Value) -> Vec<u8> {
    let body = body.to_string();
    format!("PUB {subject} {}\r\n{body}\r\n", body.len()).into_bytes()
}

/// One connection. It ends well when the node stops.
async fn session(registration: &Registration, stopping: &mut watch::Receiver<bool>) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(&registration.server)).await.map_err(late)??;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    let greeting = tokio::time::timeout(PATIENCE, next_line(&mut reader, &mut line)).await.map_err(late)??;
    if !greeting.starts_with("INFO ") {
        return Err(io::Error::other("it is no NATS server"));
    }
    let name = format!("mayastor {}", registration.node);
    let options = json!({ "verbose": false, "pedantic": false, "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": name });
    writer.write_all(format!("CONNECT {options}\r\n").as_bytes()).await?;
    let here = json!({ "id": registration.node, "grpcEndpoint": registration.endpoint });
    let mut ticks = tokio::time::interval(registration.interval);
    loop {
        tokio::select! {
            _ = ticks.tick() => writer.write_all(&message("register", &here)).await?,
            said = next_line(&mut reader, &mut line) => match said?.trim_end() {
                "PING" => writer.write_all(b"PONG\r\n").await?,
                error if error.starts_with("-ERR") => return Err(io::Error::other(error.to_owned())),
                _ => {}
            },
            () = stopped(stopping) => {
                let gone = json!({ "id": registration.node });
                writer.write_all(&message("deregister", &gone)).await?;
                // The answer to a ping says that what went before has arrived.
                writer.write_all(b"PING\r\n").await?;
                let arrived = async {
                    while next_line(&mut reader, &mut line).await?.trim_end() != "PONG" {}
                    io::Result::Ok(())
                };
                // A server that is gone as well need not hear it.
                let _ = tokio::time::timeout(PATIENCE, arrived).await;
                return Ok(());
            }
        }
    }
}

/// The next line. What has come of one is kept in `line` when the caller does not wait any longer.
async fn next_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<String> {
    let room = LINE_BYTES.saturating_sub(line.len() as u64);
    reader.take(room).read_until(b'\n', line).await?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::other("the server closed the connection"));
    }
    String::from_utf8(std::mem::take(line)).map_err(|_| io::Error::other("it is no NATS server"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that takes one connection.
    struct Server {
        reader: BufReader<tokio::net::tcp::OwnedReadHalf>,
        writer: tokio::net::tcp::OwnedWriteHalf,
        line: Vec<u8>,
    }

    impl Server {
        async fn accept(listener: &TcpListener) -> Server {
            let (reader, mut writer) = listener.accept().await.expect("a client").0.into_split();
            writer.write_all(b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n").await.expect("sent");
            let mut server = Server { reader: BufReader::new(reader), writer, line: Vec::new() };
            assert!(server.next().await.starts_with("CONNECT {"));
            server
        }
        async fn next(&mut self) -> String {
            next_line(&mut self.reader, &mut self.line).await.expect("a line")
        }
        async fn published(&mut self, subject: &str) -> serde_json::Value {
            let head = self.next().await;
            let body = self.next().await;
            assert_eq!(head, format!("PUB {subject} {}\r\n", body.len() - 2));
            serde_json::from_str(&body).expect("JSON")
        }
    }

    #[tokio::test]
    async fn it_registers_again_and_again_and_says_when_it_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let registration = Registration {
            server: listener.local_addr().expect("bound").to_string(),
            node: "node-1".into(),
            endpoint: "10.0.0.1:10124".into(),
            interval: Duration::from_millis(20),
        };
        let (stop, stopping) = watch::channel(false);
        let client = tokio::spawn(register(registration, stopping));
        let here = json!({ "id": "node-1", "grpcEndpoint": "10.0.0.1:10124" });
        // The first connection is lost, and an error ends the second.
        drop(Server::accept(&listener).await);
        let mut server = Server::accept(&listener).await;
        assert_eq!(server.published("register").await, here);
        server.writer.write_all(b"-ERR 'Stale Connection'\r\n").await.expect("sent");
        let mut server = Server::accept(&listener).await;
        for _ in 0..3 {
            assert_eq!(server.published("register").await, here);
        }
        server.writer.write_all(b"PING\r\n").await.expect("sent");
        stop.send(true).expect("it runs");
        loop {
            match server.next().await.as_str() {
                "PONG\r\n" => {}
                head if head.starts_with("PUB register") => drop(server.next().await),
                head => break assert!(head.starts_with("PUB deregister"), "{head}"),
            }
        }
        assert_eq!(server.next().await, "{\"id\":\"node-1\"}\r\n");
        while server.next().await != "PING\r\n" {}
        server.writer.write_all(b"PONG\r\n").await.expect("sent");
        client.await.expect("it ends");
    }
}
