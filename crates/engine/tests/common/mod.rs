//! A target in the simulated world, and a peer that says nonsense.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use block::{BlockSize, Buf, BufMut};
use engine::remote::RemoteSpec;
use engine::target::{Export, TargetOptions, TargetServer};
use host::{Claim, Host, OpenOptions};
use uuid::Uuid;

pub const NQN: &str = "nqn.2019-05.io.openebs:6f9fc854-87e8-4a8a-8a3c-f92575d67b7f";
pub const UUID: Uuid = Uuid::from_u128(0x6f9fc854_87e8_4a8a_8a3c_f92575d67b7f);
pub const TARGET_PORT: u16 = 8420;

/// The host name of a nexus: its associations replace one another, as retries need it.
pub fn nexus_host() -> String {
    "nqn.2019-05.io.openebs:nexus-0d4f4a2c-8a2b-4f3b-9f0e-1c64bd3bd9b1".into()
}

pub fn spec() -> RemoteSpec {
    RemoteSpec { host: "target".into(), port: TARGET_PORT, nqn: NQN.into(), host_nqn: nexus_host(), uuid: Some(UUID) }
}

fn address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], TARGET_PORT))
}

/// Serves a simulated disk until the node ends.
pub async fn serve_disk(host: Host, path: &'static str) {
    serve_as(host, path, UUID, Duration::ZERO).await;
}

/// The same under a UUID, and only some time after the target has begun to listen.
pub async fn serve_as(host: Host, path: &'static str, uuid: Uuid, later: Duration) {
    let mut disk = None;
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let options = OpenOptions { block_size, claim: Claim::Exclusive };
        if let Ok(opened) = host.open_disk(path, options).await {
            disk = Some(opened);
            break;
        }
    }
    let disk = disk.expect("the disk is there");
    let server = TargetServer::start(&host, TargetOptions { bind: address(), advertised: None }).await;
    let server = server.expect("the address is free");
    host.sleep(later).await;
    server.export(Export { nqn: NQN.into(), uuid, disk }).expect("it is served");
    std::future::pending::<()>().await;
}

/// Accepts connections and answers with bytes that look like PDUs, more or less: the right ones up to some point, with
/// damaged fields from there on.
pub async fn babble(host: Host, seed: u64) {
    let listener = host.listen(address()).expect("the address is free");
    loop {
        let Ok(stream) = listener.accept().await else { return };
        let inner = host.clone();
        host.spawn(async move {
            let host = inner;
            for step in 0..50u64 {
                let (_, got) = stream.recv(BufMut::new(4096), 0, 4096).await;
                if !matches!(got, Ok(n) if n > 0) {
                    return;
                }
                let answer = if step == 0 && !seed.is_multiple_of(4) { welcome() } else { nonsense(&host, seed) };
                if stream.send(vec![Buf::copy_of(&answer)]).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn welcome() -> Vec<u8> {
    let mut pdu = vec![0; 128];
    pdu[0] = 1;
    pdu[2] = 128;
    pdu[4..8].copy_from_slice(&128u32.to_le_bytes());
    pdu[12..16].copy_from_slice(&131_072u32.to_le_bytes());
    pdu
}

/// One of: a response with random contents, data with random lengths, an R2T, noise.
fn nonsense(host: &Host, seed: u64) -> Vec<u8> {
    let mut pdu = vec![0; 24];
    pdu[2] = 24;
    pdu[4] = 24;
    let random = host.random_bytes();
    match seed % 5 {
        0 => pdu = random.repeat(20),
        1 => {
            // A success with a random result for the first command, whatever it was.
            pdu[0] = 5;
            pdu[8..16].copy_from_slice(&random[..8]);
        }
        2 => {
            pdu[0] = 7;
            pdu[3] = 24;
            pdu[12..20].copy_from_slice(&random[..8]);
        }
        3 => {
            pdu[0] = 9;
            pdu[12..20].copy_from_slice(&random[..8]);
        }
        _ => {
            pdu[0] = 5;
            pdu[20..24].copy_from_slice(&random[..4]);
        }
    }
    pdu
}
