//! Devices over iSCSI and NBD: their names, the change from one protocol to the other, restarts.

use block::{Buf, BufMut};
use engine::model::ErrorKind;
use iscsi::pdu::{self, BHS_BYTES, opcode};
use iscsi::{text, wire};

use super::nexuses::{UUID, nexus};
use super::*;

const NEXUS: &str = "iscsi://10.0.0.1:3260/iqn.2019-05.io.openebs:nexus-4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11/0";

/// Logs in to the target of a URI, and returns the class and detail of the answer.
async fn log_in(host: &Host, uri: &str) -> u16 {
    let (place, name) = uri.trim_start_matches("iscsi://").split_once('/').expect("a name");
    let (address, port) = place.split_once(':').expect("a port");
    let stream = host.connect(address, port.parse().expect("a port")).await.expect("it listens");
    let mut keys = Vec::new();
    text::push(&mut keys, "InitiatorName", "iqn.2000-01.org.example:host");
    text::push(&mut keys, "TargetName", name.trim_end_matches("/0"));
    let mut bhs = pdu::header(opcode::LOGIN | pdu::IMMEDIATE, 0x87, 1);
    pdu::set_data_len(&mut bhs, keys.len());
    keys.resize(keys.len().next_multiple_of(4), 0);
    stream.send(vec![Buf::copy_of(&bhs), Buf::copy_of(&keys)]).await.expect("sent");
    let (mut buf, mut got) = (BufMut::new(4096), 0);
    while got < BHS_BYTES {
        let (back, received) = stream.recv(buf, got, 4096 - got).await;
        buf = back;
        got += received.expect("an answer");
    }
    wire::get16(&buf, 36)
}

#[test]
fn shared_over_iscsi_and_back_after_a_restart() {
    let world = world();
    with_node(&world, |node, host| async move {
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        let created =
            node.create_replica(CreateReplica { share: Some(Protocol::Iscsi), ..replica("R1", "p1", 10) }).await;
        let created = created.unwrap();
        let uri = "iscsi://10.0.0.1:3262/iqn.2019-05.io.openebs:r1/0";
        assert_eq!((created.share, created.uri.as_str()), (Some(Protocol::Iscsi), uri));
        assert_eq!(log_in(&host, uri).await, 0);
        // The other protocol takes its place, and back.
        let other = node.share_replica("R1".into(), Some(Protocol::Nvmf)).await.unwrap();
        assert_eq!(other.uri, "nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:R1");
        assert_eq!(log_in(&host, uri).await, 0x0203, "not found");
        assert_eq!(node.share_replica("R1".into(), Some(Protocol::Iscsi)).await.unwrap().uri, uri);
        assert_eq!(node.share_replica("R1".into(), Some(Protocol::Iscsi)).await.unwrap().uri, uri);

        node.create_replica(replica("r2", "p1", 30)).await.unwrap();
        node.create_nexus(nexus(UUID, 20 * MIB, &["bdev:///r2"])).await.unwrap();
        let published = node.publish_nexus(UUID.into(), String::new(), Protocol::Iscsi).await.unwrap();
        assert_eq!(published.device_uri, NEXUS);
        let again = node.publish_nexus(UUID.into(), String::new(), Protocol::Iscsi).await.unwrap();
        assert_eq!(again.device_uri, NEXUS);
        let refused = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await;
        assert_eq!(refused.expect_err("published already").kind, ErrorKind::AlreadyExists);

        node.create_bdev("malloc:///m?size_mb=8".into()).await.unwrap();
        let device = node.share_bdev("m".into(), Protocol::Iscsi).await.unwrap();
        assert_eq!(device, "iscsi://10.0.0.1:3260/iqn.2019-05.io.openebs:m/0");
        node.stop().await;
    });
    with_node(&world, |node, host| async move {
        assert_eq!(node.nexuses()[0].device_uri, NEXUS);
        assert_eq!(log_in(&host, NEXUS).await, 0);
        let replica = node.replicas().into_iter().find(|r| r.uuid == "R1").expect("a replica");
        assert_eq!(log_in(&host, &replica.uri).await, 0);
        let device = node.bdevs().into_iter().find(|b| b.name == "m").expect("a device").share_uri;
        assert_eq!(log_in(&host, &device).await, 0);
        node.unpublish_nexus(UUID.into()).await.unwrap();
        assert_eq!(log_in(&host, NEXUS).await, 0x0203);
        assert_eq!(node.nexuses()[0].device_uri, "");
        node.unshare_bdev("m".into()).await.unwrap();
        node.destroy_replica("R1".into()).await.unwrap();
        assert_eq!(log_in(&host, &replica.uri).await, 0x0203);
        node.stop().await;
    });
    let saved = String::from_utf8(world.file(CONFIG).unwrap()).unwrap();
    assert!(saved.contains("iscsi_nexus_port: 3260") && saved.contains("iscsi_replica_port: 3262"), "{saved}");
}

/// A connection of our own client to the export of a URI; `None`: there is no such export.
async fn nbd_client(host: &Host, uri: &str) -> Option<(host::AnyStream, nbd::client::Client<()>)> {
    let (place, export) = uri.trim_start_matches("nbd://").split_once('/').expect("a name");
    let (address, port) = place.split_once(':').expect("a port");
    let stream = host.connect(address, port.parse().expect("a port")).await.expect("it listens");
    let options = nbd::client::ClientOptions { export: export.into(), extended: true };
    let mut client = nbd::client::Client::new(options);
    while client.export().is_none() {
        exchange(&stream, &mut client).await.ok()?;
    }
    Some((stream, client))
}

/// Sends what is to be sent, receives once.
async fn exchange(
    stream: &host::AnyStream,
    client: &mut nbd::client::Client<()>,
) -> Result<Vec<nbd::client::Completed<()>>, nbd::client::Violation> {
    let output = client.output();
    if !output.is_empty() {
        stream.send(output).await.expect("sent");
    }
    let place = client.receive();
    let (buf, received) = stream.recv(place.buf, place.from, place.max).await;
    let mut done = Vec::new();
    client.received(buf, received.expect("an answer"), &mut done)?;
    Ok(done)
}

/// One command; its data.
async fn nbd_call(host: &Host, uri: &str, command: nbd::client::Command) -> Option<BufMut> {
    let (stream, mut client) = nbd_client(host, uri).await.expect("there is such an export");
    client.submit(command, ());
    loop {
        if let Some(done) = exchange(&stream, &mut client).await.expect("it keeps to the protocol").pop() {
            return done.result.expect("it succeeds");
        }
    }
}

#[test]
fn shared_over_nbd_and_back_after_a_restart() {
    use nbd::client::Command;
    const NEXUS: &str = "nbd://10.0.0.1:10809/nexus-4a9ff0d3-5d26-4b4a-9d1e-0e0f7b5f6f11";
    let world = world();
    with_node(&world, |node, host| async move {
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        let created =
            node.create_replica(CreateReplica { share: Some(Protocol::Nbd), ..replica("R1", "p1", 10) }).await;
        let created = created.unwrap();
        assert_eq!((created.share, created.uri.as_str()), (Some(Protocol::Nbd), "nbd://10.0.0.1:10809/R1"));
        node.create_replica(replica("r2", "p1", 30)).await.unwrap();
        node.create_nexus(nexus(UUID, 20 * MIB, &["bdev:///r2"])).await.unwrap();
        for _ in 0..2 {
            let published = node.publish_nexus(UUID.into(), String::new(), Protocol::Nbd).await.unwrap();
            assert_eq!(published.device_uri, NEXUS);
        }
        let refused = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await;
        assert_eq!(refused.expect_err("published already").kind, ErrorKind::AlreadyExists);
        let data = BufMut::copy_of(&[7; 3 << 20]).freeze();
        let write = Command::Write { offset: MIB, data: data.clone(), durable: true };
        assert!(nbd_call(&host, NEXUS, write).await.is_none());
        let read = nbd_call(&host, NEXUS, Command::Read { offset: MIB, length: 3 << 20 }).await;
        assert_eq!(&read.expect("data")[..], &data[..]);
        // The other protocol takes its place, and back.
        node.share_replica("R1".into(), Some(Protocol::Nvmf)).await.unwrap();
        assert!(nbd_client(&host, "nbd://10.0.0.1:10809/R1").await.is_none());
        assert!(nbd_client(&host, "nbd://10.0.0.1:10809/").await.is_none(), "there is no default export");
        node.share_replica("R1".into(), Some(Protocol::Nbd)).await.unwrap();
        node.create_bdev("malloc:///m?size_mb=8".into()).await.unwrap();
        assert_eq!(node.share_bdev("m".into(), Protocol::Nbd).await.unwrap(), "nbd://10.0.0.1:10809/m");
        node.stop().await;
    });
    with_node(&world, |node, host| async move {
        assert_eq!(node.nexuses()[0].device_uri, NEXUS);
        let read = nbd_call(&host, NEXUS, Command::Read { offset: MIB, length: 4096 }).await;
        assert_eq!(&read.expect("data")[..], &[7; 4096]);
        for uri in ["nbd://10.0.0.1:10809/R1", "nbd://10.0.0.1:10809/m"] {
            assert!(nbd_client(&host, uri).await.is_some(), "{uri}");
        }
        node.unpublish_nexus(UUID.into()).await.unwrap();
        assert!(nbd_client(&host, NEXUS).await.is_none());
        assert_eq!(node.nexuses()[0].device_uri, "");
        node.unshare_bdev("m".into()).await.unwrap();
        node.stop().await;
    });
    let saved = String::from_utf8(world.file(CONFIG).unwrap()).unwrap();
    assert!(saved.contains("nbd_port: 10809"), "{saved}");
}
