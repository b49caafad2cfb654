use block::{BlockSize, Bytes};
use engine::iscsi::{Export, IscsiOptions, IscsiServer};
use engine::malloc::Malloc;
use std::rc::Rc;
fn main() {
    ring::run(ring::Options::default(), |host| async move {
        let bind = "127.0.0.1:13260".parse().unwrap();
        let server = IscsiServer::start(&host, IscsiOptions { bind, advertised: None, portal_group: 1, chap: None })
            .await
            .unwrap();
        let disk = Rc::new(Malloc::new("m", Bytes(64 << 20), BlockSize::B512));
        server
            .export(Export {
                name: "iqn.2019-05.io.openebs:m".into(),
                uuid: uuid::Uuid::from_u128(42),
                product: "Malloc".into(),
                disk,
            })
            .unwrap();
        println!("up");
        host.sleep(std::time::Duration::from_secs(3000)).await;
    });
}
