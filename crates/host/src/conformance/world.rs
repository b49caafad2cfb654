//! Checks of connections, the clock and durable files.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use block::{Buf, BufMut};

use crate::{AnyListener, AnyStream, Host};

/// Longer than anything here takes, in any world.
const PATIENCE: Duration = Duration::from_secs(60);

fn byte_at(stream: u64, at: u64) -> u8 {
    ((at ^ stream.wrapping_mul(77)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

fn bytes_at(stream: u64, at: u64, len: usize) -> Buf {
    let mut buf = BufMut::new(len);
    for (i, byte) in buf.iter_mut().enumerate() {
        *byte = byte_at(stream, at + i as u64);
    }
    buf.freeze()
}

/// Connects a client to the listener; returns the client's end and the server's.
async fn pair(host: &Host, listener: &Rc<dyn crate::Listener>, name: &str) -> (AnyStream, AnyStream) {
    let connect = host.connect(name, listener.local().port());
    let (client, server) = futures_util::join!(connect, listener.accept());
    (client.expect("a connection"), server.expect("a client"))
}

async fn receive(stream: &AnyStream, len: usize) -> io::Result<Vec<u8>> {
    let (buf, got) = stream.recv(BufMut::new(len), 0, len).await;
    Ok(buf[..got?].to_vec())
}

/// Everything about connections: `name` reaches `listener`.
pub async fn check_streams(host: &Host, listener: AnyListener, name: &str) {
    assert_ne!(listener.local().port(), 0, "a listener knows its port");
    check_exchange(host, &listener, name).await;
    check_end(host, &listener, name).await;
    check_shutdown(host, &listener, name).await;
    check_dropped_calls(host, &listener, name).await;
    let port = listener.local().port();
    drop(listener);
    let refused = host.timeout(PATIENCE, host.connect(name, port)).await.expect("an answer");
    assert!(refused.is_err(), "nobody listens any more");
}

/// Megabytes in both directions at once, in pieces of all sizes.
async fn check_exchange(host: &Host, listener: &AnyListener, name: &str) {
    const TOTAL: u64 = 10 << 20;
    let (client, server) = pair(host, listener, name).await;
    assert_eq!(server.peer().ip(), server.peer().ip());
    let mut tasks = Vec::new();
    for (id, stream) in [(1, client), (2, server)] {
        let sender = stream.clone();
        tasks.push(host.spawn(async move {
            let (mut at, mut round) = (0, 0u64);
            while at < TOTAL {
                // Now many small pieces, more than one system call takes, now a few large ones, some of them empty.
                let (pieces, size) = if round % 2 == 0 { (3000, 1 + at % 90) } else { (5, at % 300_000) };
                let mut bufs = Vec::new();
                for _ in 0..pieces {
                    let len = size.min(TOTAL - at);
                    bufs.push(bytes_at(id, at, len as usize));
                    at += len;
                }
                round += 1;
                sender.send(bufs).await.expect("a send");
            }
        }));
        tasks.push(host.spawn(async move {
            let (mut at, mut buf) = (0, BufMut::new(100_000));
            while at < TOTAL {
                // Into the middle of the buffer: the bytes around are not touched.
                let (from, max) = ((at % 5000) as usize, 1 + (at % 90_000) as usize);
                buf.fill(0xa5);
                let (back, got) = stream.recv(buf, from, max).await;
                buf = back;
                let got = got.expect("a receive");
                assert!(got > 0 && got <= max, "{got} bytes of at most {max}");
                for (i, byte) in buf[from..from + got].iter().enumerate() {
                    assert_eq!(*byte, byte_at(3 - id, at + i as u64), "byte {} of stream {}", at + i as u64, 3 - id);
                }
                assert!(buf[..from].iter().chain(&buf[from + got..]).all(|b| *b == 0xa5), "bytes beside the payload");
                at += got as u64;
            }
        }));
    }
    for task in tasks {
        host.timeout(PATIENCE, task).await.expect("no bytes are lost").expect("not cancelled");
    }
}

/// The end of a stream comes after its last byte.
async fn check_end(host: &Host, listener: &AnyListener, name: &str) {
    let (client, server) = pair(host, listener, name).await;
    client.send(vec![Buf::copy_of(b"last words")]).await.expect("a send");
    drop(client);
    let mut heard = Vec::new();
    loop {
        match receive(&server, 4).await.expect("no error, only the end") {
            bytes if bytes.is_empty() => break,
            bytes => heard.extend(bytes),
        }
    }
    assert_eq!(heard, b"last words");
    assert!(receive(&server, 4).await.expect("still the end").is_empty());
}

/// A shutdown ends pending calls here, and the peer sees the end.
async fn check_shutdown(host: &Host, listener: &AnyListener, name: &str) {
    let (client, server) = pair(host, listener, name).await;
    let waiting = {
        let client = client.clone();
        host.spawn(async move { receive(&client, 4).await })
    };
    host.sleep(Duration::from_millis(5)).await;
    client.shutdown();
    let ended = host.timeout(PATIENCE, waiting).await.expect("the receive ends").expect("not cancelled");
    assert!(ended.is_err(), "a receive that was pending at a shutdown fails: {ended:?}");
    assert!(client.send(vec![Buf::copy_of(b"x")]).await.is_err(), "nothing is sent after a shutdown");
    let seen = host.timeout(PATIENCE, receive(&server, 4)).await.expect("the peer sees it");
    assert!(seen.is_err() || seen.is_ok_and(|bytes| bytes.is_empty()), "the peer sees the end");
}

/// A receive or an accept that is dropped while it waits loses nothing; the next one goes on.
async fn check_dropped_calls(host: &Host, listener: &AnyListener, name: &str) {
    let short = Duration::from_millis(2);
    assert!(host.timeout(short, listener.accept()).await.is_none(), "nobody connects");
    let (client, server) = pair(host, listener, name).await;
    for round in 0..20u64 {
        assert!(host.timeout(short, receive(&server, 8)).await.is_none(), "nothing was sent");
        client.send(vec![bytes_at(9, round, 8)]).await.expect("a send");
        if round % 2 == 0 {
            host.sleep(short).await;
        }
        let mut got = Vec::new();
        while got.len() < 8 {
            got.extend(receive(&server, 3).await.expect("a receive"));
            assert!(got.len() <= 9, "too many bytes");
        }
        assert_eq!(got, &*bytes_at(9, round, 8), "round {round}");
    }
    // A send that is given up half way may not be followed by another.
    let flood = vec![Buf::zeroes(1 << 20); 64];
    if host.timeout(short, client.send(flood)).await.is_none() {
        let next = host.timeout(PATIENCE, client.send(vec![Buf::copy_of(b"x")])).await;
        assert!(next.is_none_or(|sent| sent.is_err()), "bytes after a torn message");
    }
}

/// Time goes on, waits are not too short, and a limit ends what it limits.
pub async fn check_clock(host: &Host) {
    let start = host.now();
    let waits = [30u64, 10, 0, 20].map(Duration::from_millis);
    let order = crate::Queue::default();
    for wait in waits {
        let (theirs, order) = (host.clone(), order.clone());
        host.spawn(async move {
            theirs.sleep(wait).await;
            order.push((wait, theirs.now().since(start)));
        });
    }
    for expected in [0u64, 10, 20, 30].map(Duration::from_millis) {
        let (wait, taken) = order.next().await;
        assert_eq!(wait, expected, "waits end in the order of their length");
        assert!(taken >= wait, "a wait of {wait:?} took {taken:?}");
    }
    host.sleep_until(start).await;
    let ended = host.timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
    assert!(ended.is_none(), "a limit ends what never ends");
    assert_eq!(host.timeout(PATIENCE, std::future::ready(7)).await, Some(7));
    assert!(host.wall_clock_ms() > 0);
    let draws: std::collections::BTreeSet<_> = (0..100).map(|_| host.random()).collect();
    assert_eq!(draws.len(), 100, "random numbers differ");
    assert_ne!(host.random_bytes(), host.random_bytes());
}

/// Files are there or not, and replaced as a whole.
pub async fn check_files(host: &Host, directory: &Path) {
    let path = directory.join("file");
    assert_eq!(host.load(&path).await.expect("no error"), None, "there is no file yet");
    let large: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    for contents in [b"one".to_vec(), large, Vec::new(), b"two".to_vec()] {
        host.store(&path, contents.clone()).await.expect("it is stored");
        assert_eq!(host.load(&path).await.expect("no error"), Some(contents));
    }
    let at_once = futures_util::future::join_all((0..20u8).map(|n| host.store(&path, vec![n; 1000]))).await;
    assert!(at_once.iter().all(Result::is_ok));
    let last = host.load(&path).await.expect("no error").expect("there is a file");
    assert!(last.len() == 1000 && last.iter().all(|b| *b == last[0]), "one of the contents, whole");
}
