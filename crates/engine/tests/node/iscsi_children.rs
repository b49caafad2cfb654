//! Logical units of another node as children of a nexus, and as disks.

use std::time::Duration;

use block::{BlockRange, Buf, Durability};
use engine::iscsi::{Chap, Credentials, Export, IscsiOptions, IscsiServer};
use engine::malloc::Malloc;
use engine::model::{ErrorKind, Health};
use engine::remote::iscsi::{IscsiDisk, IscsiSpec, connect};
use engine::remote::{RemoteOptions, RemoteState};
use host::conformance::check_disk;
use host::{Disk, DiskExt, DiskRef};

use super::nexuses::{UUID, at, connect as connect_nexus, nexus, payload};
use super::*;

const IQN: &str = "iqn.2019-05.io.openebs:far";
const FAR: Uuid = Uuid::from_u128(0x6f9fc854_87e8_4a8a_8a3c_f92575d67b7f);

fn secrets() -> Chap {
    let who = |name: &str, secret: &str| Credentials { name: name.into(), secret: secret.into() };
    Chap { initiator: who("alice", "0123456789ab"), target: Some(who("storage", "another secret")) }
}

/// Serves 32 MiB of memory on the machine `far` until that is killed.
fn serve(world: &World, chap: Option<Chap>, block_size: block::BlockSize) {
    let host = world.node("far");
    host.clone().spawn(async move {
        let bind = "0.0.0.0:3260".parse().expect("an address");
        let options = IscsiOptions { bind, advertised: None, portal_group: 1, chap };
        let server = IscsiServer::start(&host, options).await.expect("the address is free");
        let disk: DiskRef = Rc::new(Malloc::new("m", block::Bytes(32 * MIB), block_size));
        server.export(Export { name: IQN.into(), uuid: FAR, product: "Far".into(), disk }).expect("a new name");
        std::future::pending::<()>().await;
    });
}

fn spec(chap: Option<Chap>) -> IscsiSpec {
    let initiator = "iqn.2000-01.org.example:host".into();
    IscsiSpec { host: "far".into(), port: 3260, target: IQN.into(), lun: 0, initiator, uuid: Some(FAR), chap }
}

async fn open(host: &Host, chap: Option<Chap>, options: RemoteOptions) -> Rc<IscsiDisk> {
    connect(host, spec(chap), options).await.unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn it_is_a_disk() {
    for (chap, digests, block_size) in
        [(None, false, block::BlockSize::B512), (Some(secrets()), true, block::BlockSize::B4096)]
    {
        let world = world();
        serve(&world, chap.clone(), block_size);
        let host = world.host();
        world.run(async move {
            let options =
                RemoteOptions { header_digest: digests, data_digest: digests, depth: 5, ..RemoteOptions::default() };
            let disk = open(&host, chap, options).await;
            assert_eq!((disk.uuid(), disk.geometry().block_size), (Some(FAR), block_size));
            check_disk(&host, disk.clone()).await;
            assert_eq!(disk.state(), RemoteState::Up);
            disk.close().await;
            assert_eq!(disk.state(), RemoteState::Closed);
        });
    }
}

/// The session is reinstated, requests go on, nothing is lost.
#[test]
fn lost_connections_are_not_seen() {
    let world = Rc::new(world());
    serve(&world, None, block::BlockSize::B512);
    let host = world.host();
    let inner = world.clone();
    world.run(async move {
        let disk = open(&host, None, RemoteOptions::default()).await;
        for round in 0..20u8 {
            let writes = (0..8).map(|n| disk.write(at(n * 8), payload(round), Durability::Volatile));
            let writes = futures_util::future::join_all(writes);
            let cut = async {
                host.sleep(Duration::from_micros(u64::from(round) * 37)).await;
                inner.net().reset("far");
            };
            let (done, ()) = futures_util::future::join(writes, cut).await;
            assert!(done.iter().all(Result::is_ok), "{done:?}");
            let read = disk.read(BlockRange::new(0, 64)).await.expect("read");
            assert!(read.iter().all(|b| *b == round));
        }
        assert_eq!(disk.state(), RemoteState::Up);
    });
}

/// What was answered may be gone with the memory of a target that starts anew.
#[test]
fn a_target_that_restarts_is_noticed() {
    let world = world();
    serve(&world, None, block::BlockSize::B512);
    let host = world.host();
    let disk = world.run(async move {
        let options = RemoteOptions { on_restart: engine::remote::OnRestart::FailAlways, ..RemoteOptions::default() };
        let disk = open(&host, None, options).await;
        disk.write(at(0), payload(1), Durability::Volatile).await.expect("written");
        disk
    });
    world.kill("far");
    serve(&world, None, block::BlockSize::B512);
    let host = world.host();
    world.run(async move {
        host.sleep(Duration::from_secs(3)).await;
        assert!(matches!(disk.state(), RemoteState::Failed(why) if why.contains("restarted")), "{:?}", disk.state());
        assert!(disk.read(at(0)).await.is_err());
    });
}

#[test]
fn children_of_a_nexus() {
    let world = world();
    serve(&world, Some(secrets()), block::BlockSize::B512);
    world.put_file("/etc/chap", b"alice 0123456789ab\nstorage another secret\n".to_vec());
    world.put_file("/etc/other", b"alice 0123456789ac\n".to_vec());
    let far = format!("iscsi://far/{IQN}/0?chap=/etc/chap&data_digest=yes");
    with_node(&world, move |node, host| async move {
        let wrong = |query: &str| nexus(UUID, 20 * MIB, &[&format!("iscsi://far/{IQN}{query}")]);
        for (query, kind) in [
            ("?chap=/etc/none", ErrorKind::InvalidArgument),
            ("?chap=/etc/other", ErrorKind::Unavailable),
            ("", ErrorKind::Unavailable),
            ("/3?chap=/etc/chap", ErrorKind::Unavailable),
        ] {
            let error = node.create_nexus(wrong(query)).await.expect_err(query);
            assert!(error.kind == kind && !error.message.contains("0123456789"), "{query}: {error:?}");
        }
        node.create_pool(pool("p1", &["/dev/a"])).await.unwrap();
        node.create_replica(replica("r1", "p1", 32)).await.unwrap();
        let made = node.create_nexus(nexus(UUID, 20 * MIB, &["bdev:///r1", &far])).await.unwrap();
        assert_eq!(made.state, Health::Online);
        let uri = node.publish_nexus(UUID.into(), String::new(), Protocol::Nvmf).await.unwrap().device_uri;
        let disk = connect_nexus(&host, &uri).await;
        disk.write(at(0), payload(7), Durability::Durable).await.unwrap();
        drop(disk);
        node.destroy_nexus(UUID.into()).await.unwrap();
        // The far child holds what was written, behind the label.
        let raw = open(&host, Some(secrets()), RemoteOptions::default()).await;
        assert_eq!(raw.read(at(5 * MIB / 512)).await.unwrap(), Buf::copy_of(&[7; 4096]));
    });
}
