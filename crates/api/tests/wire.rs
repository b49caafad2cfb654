//! The v0.3.0 schema, field by field and call by call, against the table of its contract.

use std::collections::BTreeMap;

/// One line a message: name, then `field=number:type`; `*` marks a repeated field.
const MESSAGES: &str = "\
Null
CreatePoolRequest name=1:string disks=2:*string block_size=3:uint32 io_if=4:PoolIoIf
Pool name=1:string disks=2:*string state=3:PoolState capacity=5:uint64 used=6:uint64
DestroyPoolRequest name=1:string
ListPoolsReply pools=1:*Pool
CreateReplicaRequest uuid=1:string pool=2:string size=3:uint64 thin=4:bool share=5:ShareProtocolReplica
DestroyReplicaRequest uuid=1:string
Replica uuid=1:string pool=2:string thin=3:bool size=4:uint64 share=5:ShareProtocolReplica uri=6:string
ListReplicasReply replicas=1:*Replica
Stats num_read_ops=1:uint64 num_write_ops=2:uint64 bytes_read=3:uint64 bytes_written=4:uint64
ReplicaStats uuid=1:string pool=2:string stats=3:Stats
StatReplicasReply replicas=1:*ReplicaStats
ShareReplicaRequest uuid=1:string share=2:ShareProtocolReplica
ShareReplicaReply uri=1:string
CreateNexusRequest uuid=1:string size=2:uint64 children=3:*string
Child uri=1:string state=2:ChildState rebuild_progress=3:int32
Nexus uuid=1:string size=2:uint64 state=3:NexusState children=4:*Child device_uri=5:string rebuilds=6:uint32
ListNexusReply nexus_list=1:*Nexus
DestroyNexusRequest uuid=1:string
AddChildNexusRequest uuid=1:string uri=2:string norebuild=3:bool
RemoveChildNexusRequest uuid=1:string uri=2:string
PublishNexusRequest uuid=1:string key=2:string share=3:ShareProtocolNexus
PublishNexusReply device_uri=1:string
UnpublishNexusRequest uuid=1:string
ChildNexusRequest uuid=1:string uri=2:string action=3:ChildAction
RebuildStateRequest uuid=1:string uri=2:string
RebuildStateReply state=1:string
StartRebuildRequest uuid=1:string uri=2:string
StopRebuildRequest uuid=1:string uri=2:string
PauseRebuildRequest uuid=1:string uri=2:string
ResumeRebuildRequest uuid=1:string uri=2:string
RebuildProgressRequest uuid=1:string uri=2:string
RebuildProgressReply progress=1:uint32
BdevShareRequest name=1:string proto=2:string
BdevShareReply uri=1:string
Bdev name=1:string uuid=2:string num_blocks=3:uint64 blk_size=5:uint32 claimed=6:bool claimed_by=7:string aliases=8:string uri=9:string
Bdevs bdevs=1:*Bdev
BdevUri uri=1:string
CreateReply name=1:string";

const ENUMS: &str = "\
PoolIoIf POOL_IO_AUTO=0 POOL_IO_AIO=1 POOL_IO_URING=2
PoolState POOL_UNKNOWN=0 POOL_ONLINE=1 POOL_DEGRADED=2 POOL_FAULTED=3
ShareProtocolReplica REPLICA_NONE=0 REPLICA_NVMF=1 REPLICA_ISCSI=2
ShareProtocolNexus NEXUS_NBD=0 NEXUS_NVMF=1 NEXUS_ISCSI=2
ChildState CHILD_UNKNOWN=0 CHILD_ONLINE=1 CHILD_DEGRADED=2 CHILD_FAULTED=3
NexusState NEXUS_UNKNOWN=0 NEXUS_ONLINE=1 NEXUS_DEGRADED=2 NEXUS_FAULTED=3
ChildAction offline=0 online=1";

const CALLS: &str = "\
Mayastor.CreatePool CreatePoolRequest Pool
Mayastor.DestroyPool DestroyPoolRequest Null
Mayastor.ListPools Null ListPoolsReply
Mayastor.CreateReplica CreateReplicaRequest Replica
Mayastor.DestroyReplica DestroyReplicaRequest Null
Mayastor.ListReplicas Null ListReplicasReply
Mayastor.StatReplicas Null StatReplicasReply
Mayastor.ShareReplica ShareReplicaRequest ShareReplicaReply
Mayastor.CreateNexus CreateNexusRequest Nexus
Mayastor.DestroyNexus DestroyNexusRequest Null
Mayastor.ListNexus Null ListNexusReply
Mayastor.AddChildNexus AddChildNexusRequest Child
Mayastor.RemoveChildNexus RemoveChildNexusRequest Null
Mayastor.PublishNexus PublishNexusRequest PublishNexusReply
Mayastor.UnpublishNexus UnpublishNexusRequest Null
Mayastor.ChildOperation ChildNexusRequest Null
Mayastor.StartRebuild StartRebuildRequest Null
Mayastor.StopRebuild StopRebuildRequest Null
Mayastor.PauseRebuild PauseRebuildRequest Null
Mayastor.ResumeRebuild ResumeRebuildRequest Null
Mayastor.GetRebuildState RebuildStateRequest RebuildStateReply
Mayastor.GetRebuildProgress RebuildProgressRequest RebuildProgressReply
BdevRpc.List Null Bdevs
BdevRpc.Create BdevUri CreateReply
BdevRpc.Destroy BdevUri Null
BdevRpc.Share BdevShareRequest BdevShareReply
BdevRpc.Unshare CreateReply Null";

fn by_name(table: &str) -> BTreeMap<String, String> {
    table.lines().map(|line| (line.split(' ').next().expect("a name").to_owned(), line.to_owned())).collect()
}

fn schema() -> protox::prost_reflect::FileDescriptor {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let set = protox::compile(["mayastor.proto"], [proto]).expect("the schema compiles");
    let pool = protox::prost_reflect::DescriptorPool::from_file_descriptor_set(set).expect("a valid schema");
    pool.files().next().expect("one file")
}

#[test]
fn messages_have_the_numbers_of_v0_3_0() {
    let found: BTreeMap<_, _> = schema()
        .messages()
        .map(|message| {
            let mut line = message.name().to_owned();
            for field in message.fields() {
                let kind = match field.kind() {
                    protox::prost_reflect::Kind::Message(message) => message.name().to_owned(),
                    protox::prost_reflect::Kind::Enum(kind) => kind.name().to_owned(),
                    scalar => format!("{scalar:?}"),
                };
                let many = if field.is_list() { "*" } else { "" };
                line += &format!(" {}={}:{many}{kind}", field.name(), field.number());
            }
            (message.name().to_owned(), line)
        })
        .collect();
    assert_eq!(found, by_name(MESSAGES));
}

#[test]
fn enums_have_the_values_of_v0_3_0() {
    let found: BTreeMap<_, _> = schema()
        .enums()
        .map(|kind| {
            let mut line = kind.name().to_owned();
            for value in kind.values() {
                line += &format!(" {}={}", value.name(), value.number());
            }
            (kind.name().to_owned(), line)
        })
        .collect();
    assert_eq!(found, by_name(ENUMS));
}

#[test]
fn services_have_the_calls_of_v0_3_0() {
    let schema = schema();
    assert_eq!(schema.package_name(), "mayastor");
    let mut found = BTreeMap::new();
    for service in schema.services() {
        for call in service.methods() {
            assert!(!call.is_client_streaming() && !call.is_server_streaming());
            let name = format!("{}.{}", service.name(), call.name());
            let line = format!("{name} {} {}", call.input().name(), call.output().name());
            found.insert(name, line);
        }
    }
    assert_eq!(found, by_name(CALLS));
}

#[test]
fn enums_are_words_in_json() {
    let pool = api::v0::Pool { name: "p".into(), state: api::v0::PoolState::PoolDegraded.into(), ..Default::default() };
    let json = serde_json::to_string(&pool).expect("JSON");
    assert_eq!(json, r#"{"name":"p","disks":[],"state":"degraded","capacity":0,"used":0}"#);
}
