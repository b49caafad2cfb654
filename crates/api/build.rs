//! Compiles the wire schemas with a Rust protobuf compiler, so that building needs no `protoc`.
#![allow(clippy::disallowed_methods, reason = "a build script writes files")]

/// Fields that hold an enum: their generated Rust type is `i32`, programs that read JSON shall see the word.
const ENUM_FIELDS: &[(&str, &str)] = &[
    ("mayastor.CreatePoolRequest.io_if", "v0::PoolIoIf"),
    ("mayastor.Pool.state", "v0::PoolState"),
    ("mayastor.CreateReplicaRequest.share", "v0::ShareProtocolReplica"),
    ("mayastor.ShareReplicaRequest.share", "v0::ShareProtocolReplica"),
    ("mayastor.Replica.share", "v0::ShareProtocolReplica"),
    ("mayastor.Child.state", "v0::ChildState"),
    ("mayastor.Nexus.state", "v0::NexusState"),
    ("mayastor.PublishNexusRequest.share", "v0::ShareProtocolNexus"),
    ("mayastor.ChildNexusRequest.action", "v0::ChildAction"),
    ("mayastor.v1.Pool.state", "v1::PoolState"),
    ("mayastor.v1.Nexus.state", "v1::NexusState"),
    ("mayastor.v1.Child.state", "v1::ChildState"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let schemas = protox::compile(["mayastor.proto", "mayastor_v1.proto"], ["proto"])?;
    let mut paths = Vec::new();
    for file in &schemas.file {
        for service in &file.service {
            let calls = service.method.iter().map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name()));
            paths.extend(calls);
        }
    }
    let list = std::path::Path::new(&std::env::var("OUT_DIR")?).join("rpcs.rs");
    std::fs::write(list, format!("&{paths:?}"))?;
    let mut builder = tonic_prost_build::configure().btree_map(".").type_attribute(".", "#[derive(serde::Serialize)]");
    // A key is shown by nothing that prints a message.
    builder = builder.skip_debug(["mayastor.PublishNexusRequest"]);
    builder = builder.field_attribute("mayastor.PublishNexusRequest.key", "#[serde(skip)]");
    for (field, kind) in ENUM_FIELDS {
        let attribute = format!("#[serde(serialize_with = \"crate::words::serialize::<crate::{kind}, _>\")]");
        builder = builder.field_attribute(*field, attribute);
    }
    builder.compile_fds(schemas)?;
    let csi = protox::compile(["csi.proto"], ["proto"])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(csi)?;
    let etcd = protox::compile(["etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd)?;
    Ok(())
}
