//! Everything has a limit; all of them are here, so that nobody meets one by surprise.

/// The longest name of a pool or replica, in bytes.
pub const NAME_BYTES: usize = 63;
/// Disks in one pool.
pub const POOL_DISKS: usize = 64;
/// Replicas in one pool.
pub const POOL_REPLICAS: usize = 10_000;
/// Members (children) of one nexus.
pub const NEXUS_MEMBERS: usize = 16;
/// Requests in flight in one nexus; more wait in order.
pub const NEXUS_FLIGHTS: usize = 4096;
/// Bytes in one request on the data path.
pub const TRANSFER_BYTES: usize = 1 << 20;
/// Subsystems that one target exports, discovery not counted.
pub const SUBSYSTEMS: usize = 4096;
/// Connections that one target accepts.
pub const CONNECTIONS: usize = 4096;
/// I/O queues of one controller.
pub const IO_QUEUES: u16 = 64;
/// Entries of one I/O queue (NVMe's SQSIZE + 1).
pub const QUEUE_ENTRIES: u16 = 128;
/// Entries of the admin queue.
pub const ADMIN_QUEUE_ENTRIES: u16 = 32;
/// Outstanding asynchronous event requests of one controller.
pub const ASYNC_EVENTS: usize = 4;
/// Bytes of payload inside a command capsule.
pub const IN_CAPSULE_BYTES: usize = 8192;
/// Hosts that can be registered with one device that keeps reservations in memory.
pub const REGISTRANTS: usize = 64;
/// Hosts that can be registered with one replica of a pool, which keeps them on its disks.
pub const REPLICA_REGISTRANTS: usize = 8;
/// Commands that one iSCSI session may have outstanding.
pub const ISCSI_TASKS: u32 = 128;
/// Commands for immediate delivery besides.
pub const ISCSI_IMMEDIATE_TASKS: u32 = 8;
/// Bytes of data in one iSCSI PDU that we take.
pub const ISCSI_SEGMENT_BYTES: usize = 256 << 10;
/// Bytes of an iSCSI command's data that may come unasked.
pub const ISCSI_FIRST_BURST_BYTES: usize = 64 << 10;
/// Bytes that one WRITE SAME command writes.
pub const ISCSI_WRITE_SAME_BYTES: usize = 16 << 20;
/// Ranges in one UNMAP command.
pub const ISCSI_UNMAP_RANGES: usize = 256;
/// Initiators that may be registered for persistent reservations of one logical unit.
pub const ISCSI_REGISTRATIONS: usize = 128;
/// Commands that one NBD connection may have outstanding; more are not read from the socket.
pub const NBD_COMMANDS: usize = 128;
/// Bytes of one NBD read or write: what a client may assume that asks for no block sizes.
pub const NBD_PAYLOAD_BYTES: usize = 32 << 20;
/// Bytes of payload that one NBD connection may have in memory; one command is always let in.
pub const NBD_CONNECTION_BYTES: usize = 64 << 20;
/// Bytes of an NBD option's data.
pub const NBD_OPTION_BYTES: usize = 16 << 10;
/// Bytes of an NBD export's name.
pub const NBD_NAME_BYTES: usize = 4096;
/// Bytes that an NBD trim or write-zeroes clears in one request to the device; longer ones are carried out piece by piece.
pub const NBD_CLEAR_BYTES: u64 = 64 << 20;
