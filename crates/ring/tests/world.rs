//! Connections, clock and files pass the checks that every world has to pass, and do what only Linux can show.
#![allow(clippy::disallowed_methods, reason = "the test plays the peer")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use block::{Buf, BufMut};
use host::conformance::{check_clock, check_files, check_streams};
use host::{AnyStream, Host};
use ring::{Options, run};

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

#[test]
fn connections_pass() {
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        run(Options { spin, ..Options::default() }, |host| async move {
            let listener = host.listen(local()).expect("a port");
            check_streams(&host, listener, "127.0.0.1").await;
            let listener = host.listen(local()).expect("a port");
            check_streams(&host, listener, "localhost").await;
        });
    }
}

#[test]
fn the_clock_passes() {
    run(Options::default(), |host| async move { check_clock(&host).await });
}

#[test]
fn files_pass_and_leave_nothing_behind() {
    let dir = std::env::temp_dir().join(format!("ring-files-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let theirs = dir.clone();
    run(Options::default(), |host| async move {
        check_files(&host, &theirs).await;
        let lost = host.store(&theirs.join("missing/file"), vec![1]).await;
        assert_eq!(lost.map_err(|e| e.kind()), Err(std::io::ErrorKind::NotFound));
    });
    let names: Vec<_> =
        std::fs::read_dir(&dir).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(names, ["file"]);
}

/// A connection whose other end is a plain socket in another thread's hands.
async fn with_peer(host: &Host) -> (AnyStream, TcpStream) {
    let listener = TcpListener::bind(local()).expect("a port");
    let ours = host.connect("127.0.0.1", listener.local_addr().expect("an address").port()).await.expect("connected");
    let (theirs, _) = listener.accept().expect("a client");
    (ours, theirs)
}

async fn receive(stream: &AnyStream) -> std::io::Result<Vec<u8>> {
    let (buf, got) = stream.recv(BufMut::new(100), 0, 100).await;
    Ok(buf[..got?].to_vec())
}

#[test]
fn a_peer_that_closes_one_direction_still_listens() {
    run(Options::default(), |host| async move {
        let (ours, mut theirs) = with_peer(&host).await;
        theirs.write_all(b"question").expect("sent");
        theirs.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(receive(&ours).await.expect("bytes"), b"question");
        assert_eq!(receive(&ours).await.expect("the end"), b"");
        ours.send(vec![Buf::copy_of(b"ans"), Buf::copy_of(b"wer")]).await.expect("the other direction is open");
        drop(ours);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).expect("to the end");
        assert_eq!(heard, "answer");
    });
}

#[test]
fn a_reset_is_an_error() {
    run(Options::default(), |host| async move {
        let (ours, theirs) = with_peer(&host).await;
        // Closing with bytes unread makes Linux send a reset.
        ours.send(vec![Buf::copy_of(b"unread")]).await.expect("sent");
        let mut peeked = [0];
        theirs.peek(&mut peeked).expect("it has arrived");
        drop(theirs);
        let error = receive(&ours).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let error = ours.send(vec![Buf::copy_of(b"x")]).await.expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn dropping_a_stream_closes_it_while_calls_are_in_flight() {
    run(Options::default(), |host| async move {
        let (ours, mut theirs) = with_peer(&host).await;
        let (reader, writer) = (ours.clone(), ours.clone());
        let reading = host.spawn(async move { receive(&reader).await });
        let writing = host.spawn(async move { writer.send(vec![Buf::zeroes(1 << 20); 64]).await });
        host.sleep(Duration::from_millis(10)).await;
        reading.cancel();
        writing.cancel();
        drop(ours);
        let ended = std::thread::spawn(move || {
            let mut sink = Vec::new();
            let end = theirs.read_to_end(&mut sink);
            assert!(end.is_err() || sink.len() < 64 << 20, "the send was given up");
        });
        while !ended.is_finished() {
            host.sleep(Duration::from_millis(1)).await;
        }
        ended.join().expect("the peer saw the end");
    });
}

#[test]
fn nobody_at_the_address_is_an_error() {
    run(Options::default(), |host| async move {
        let port = TcpListener::bind(local()).and_then(|l| l.local_addr()).expect("a port").port();
        let refused = host.connect("127.0.0.1", port).await.err().expect("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(host.connect("no-such-name.invalid", port).await.is_err());
    });
}
