//! Nexuses that are published with a key: what lies on the children, restarts, and other keys.

use block::Durability;
use engine::crypt::BlockCipher;
use engine::model::{ErrorKind, Health};
use host::DiskExt;

use super::nexuses::{UUID, at, connect, mirror, payload};
use super::*;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                   202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const OTHER: &str = "100102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                     202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";
const OLD: &str = "0123456789abcdef";
/// Where the data begin on a child.
const DATA: u64 = 5 * MIB / 512;

fn uri() -> String {
    format!("nvmf://10.0.0.1:8420/nqn.2019-05.io.openebs:crypto-nexus-{UUID}")
}

async fn publish(node: &Node, key: &str) -> Result<engine::model::NexusInfo, engine::model::Error> {
    node.publish_nexus(UUID.into(), key.into(), Protocol::Nvmf).await
}

async fn refused(node: &Node, key: &str) -> (ErrorKind, String) {
    let error = publish(node, key).await.expect_err("refused");
    assert!(key.is_empty() || !error.message.contains(key), "{error}");
    (error.kind, error.message)
}

#[test]
fn children_hold_ciphertext_and_a_restart_waits_for_the_key() {
    for key in [KEY, OLD] {
        let world = world();
        with_node(&world, move |node, host| async move {
            mirror(&node).await;
            assert_eq!(publish(&node, key).await.unwrap().device_uri, uri());
            assert_eq!(publish(&node, key).await.unwrap().device_uri, uri(), "it is so already");
            assert_eq!(refused(&node, OTHER).await.0, ErrorKind::AlreadyExists);
            assert_eq!(refused(&node, "").await.0, ErrorKind::FailedPrecondition);
            let disk = connect(&host, &uri()).await;
            assert_eq!(disk.read(at(8)).await.unwrap(), payload(0), "never written");
            disk.write(at(0), payload(1), Durability::Durable).await.unwrap();
            assert_eq!(disk.read(at(0)).await.unwrap(), payload(1));
            drop(disk);
            // Each child alone is enough to decrypt what it holds.
            node.unpublish_nexus(UUID.into()).await.unwrap();
            node.destroy_nexus(UUID.into()).await.unwrap();
            for child in ["r1", "r2"] {
                let shared = node.share_replica(child.into(), Some(Protocol::Nvmf)).await.unwrap();
                let raw = super::nexuses::connect_any(&host, &shared.uri).await;
                let secret = raw.read(at(DATA)).await.unwrap();
                let mut plain = secret.to_vec();
                let cipher = BlockCipher::of_key(key).unwrap().expect("a key");
                (0..).zip(plain.chunks_exact_mut(512)).for_each(|(lba, block)| cipher.decrypt(lba, block));
                assert!(secret.iter().filter(|b| **b == 1).count() < 100 && plain == [1; 4096]);
                drop(raw);
                node.share_replica(child.into(), None).await.unwrap();
            }
            let children = ["bdev:///r1", "bdev:///r2"];
            node.create_nexus(super::nexuses::nexus(UUID, 20 * MIB, &children)).await.unwrap();
            publish(&node, key).await.unwrap();
        });
        world.kill("main");
        let saved = String::from_utf8(world.file(CONFIG).unwrap()).unwrap();
        assert!(!saved.contains(key) && saved.contains("check: "), "{saved}");
        with_node(&world, move |node, host| async move {
            let back = node.nexuses().remove(0);
            assert_eq!((back.device_uri.as_str(), back.state), ("", Health::Online));
            assert!(back.reason.contains("its key is not kept"), "{}", back.reason);
            assert_eq!(refused(&node, OTHER).await.0, ErrorKind::AlreadyExists);
            let (kind, why) = refused(&node, "").await;
            assert!(kind == ErrorKind::FailedPrecondition && why.contains("give its key"), "{why}");
            let back = publish(&node, key).await.unwrap();
            assert_eq!((back.device_uri, back.reason.as_str()), (uri(), ""));
            assert_eq!(connect(&host, &uri()).await.read(at(0)).await.unwrap(), payload(1));
        });
    }
}

#[test]
fn a_wrong_key_reads_noise_and_damages_nothing() {
    let world = world();
    with_node(&world, |node, host| async move {
        mirror(&node).await;
        publish(&node, KEY).await.unwrap();
        connect(&host, &uri()).await.write(at(0), payload(1), Durability::Durable).await.unwrap();
        node.unpublish_nexus(UUID.into()).await.unwrap();
        for wrong in [OTHER, OLD] {
            publish(&node, wrong).await.unwrap();
            let disk = connect(&host, &uri()).await;
            let noise = disk.read(at(0)).await.unwrap();
            assert!(noise.iter().filter(|b| **b == 1).count() < 100);
            assert_eq!(disk.read(at(8)).await.unwrap(), payload(0));
            node.unpublish_nexus(UUID.into()).await.unwrap();
        }
        // Without a key: the bare nexus, under its other name.
        let bare = publish(&node, "").await.unwrap().device_uri;
        assert!(bare.ends_with(&format!(":nexus-{UUID}")), "{bare}");
        assert!(connect(&host, &bare).await.read(at(0)).await.unwrap().iter().filter(|b| **b == 1).count() < 100);
        assert_eq!(refused(&node, KEY).await.0, ErrorKind::AlreadyExists);
        node.unpublish_nexus(UUID.into()).await.unwrap();
        publish(&node, KEY).await.unwrap();
        assert_eq!(connect(&host, &uri()).await.read(at(0)).await.unwrap(), payload(1));
    });
}

/// What cannot be shared leaves nothing behind, and iSCSI has the same data.
#[test]
fn over_iscsi_too() {
    let world = world();
    with_node(&world, |node, host| async move {
        mirror(&node).await;
        publish(&node, KEY).await.unwrap();
        connect(&host, &uri()).await.write(at(0), payload(1), Durability::Durable).await.unwrap();
        let other = node.publish_nexus(UUID.into(), KEY.into(), Protocol::Iscsi).await.expect_err("another protocol");
        assert_eq!(other.kind, ErrorKind::AlreadyExists);
        assert_eq!(connect(&host, &uri()).await.read(at(0)).await.unwrap(), payload(1), "still served");
        node.unpublish_nexus(UUID.into()).await.unwrap();
        let shared = node.publish_nexus(UUID.into(), KEY.into(), Protocol::Iscsi).await.unwrap();
        assert_eq!(shared.device_uri, format!("iscsi://10.0.0.1:3260/iqn.2019-05.io.openebs:crypto-nexus-{UUID}/0"));
    });
}
