//! Bringing an association up and down: one admin queue, some I/O queues, one namespace.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::link::Receive;
use block::{BlockSize, Blocks, Buf, BufMut, Features, Geometry, limits};
use bytemuck::Pod;
use host::Host;
use nvme::fabrics::{DYNAMIC_CONTROLLER, cc, csts, property};
use nvme::identify::{self, Descriptor, IdentifyController, IdentifyNamespace, IdentifyNvmController, cns, oncs};
use nvme::initiator::command::{self, Identity};
use nvme::initiator::{Command, Completed, Queue, QueueOptions};
use nvme::log::{self, DiscoveryHeader};
use nvme::pdu::Digests;
use nvme::wire::{self, Le32};
use nvme::{Nqn, Status};
use uuid::Uuid;

use super::connection::{Link, Token, Wire};
use super::flights::{Clear, Limits, Op, Reply};
use super::protocol::Protocol;
use super::{DiscoveryEntry, RemoteError, RemoteOptions, RemoteSpec};

/// Receive buffers: the admin queue moves 4 KiB now and then, an I/O queue should take many answers at a time.
const ADMIN_RECEIVE: usize = 16 << 10;
const IO_RECEIVE: usize = 64 << 10;
/// How often CSTS is looked at while the controller starts or stops.
const POLL: Duration = Duration::from_millis(10);
/// How long an orderly shutdown may take before the connections are closed all the same.
const SHUTDOWN: Duration = Duration::from_millis(500);
/// Namespaces of a subsystem that are searched for a UUID.
const NAMESPACES: usize = 32;
/// Entries of the discovery log that are fetched at a time (16 KiB).
const LOG_CHUNK: u64 = 16;
/// How often a discovery log that changes while it is read is read again.
const LOG_ATTEMPTS: usize = 4;

/// A namespace over NVMe/TCP.
pub(super) struct Nvme {
    pub(super) spec: RemoteSpec,
    /// Names this opening of the disk to the target, in all of its associations.
    pub(super) session: [u8; 16],
    /// RESCAP: the reservations that the namespace offers, as the last association found it; 0 for none.
    pub(super) reserving: Cell<u8>,
}

/// One queue.
pub(super) type NvmeQueue = Queue<Token<Completed<()>>>;
type Connection = super::connection::Connection<NvmeQueue>;
type Association = super::protocol::Association<Nvme>;
type Opened = super::protocol::Opened<NvmeQueue>;

impl Wire for NvmeQueue {
    type Command = Command;
    type Answer = Completed<()>;
    type Completed = Completed<Token<Completed<()>>>;

    fn is_ready(&self) -> bool {
        Queue::is_ready(self)
    }
    fn free(&self) -> usize {
        Queue::free(self)
    }
    fn in_flight(&self) -> usize {
        Queue::in_flight(self)
    }
    fn submit(&mut self, command: Command, token: Token<Completed<()>>) {
        Queue::submit(self, command, token);
    }
    fn has_output(&self) -> bool {
        Queue::has_output(self)
    }
    fn output(&mut self) -> Vec<Buf> {
        Queue::output(self)
    }
    fn receive(&mut self) -> Receive {
        Queue::receive(self)
    }
    fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Self::Completed>) -> Result<(), String> {
        Queue::received(self, buf, n, done).map_err(|violation| violation.to_string())
    }
    fn drain(&mut self) -> Vec<Token<Completed<()>>> {
        Queue::drain(self).collect()
    }
    fn split(completed: Self::Completed) -> (Token<Completed<()>>, Completed<()>) {
        let Completed { token, result, status, data } = completed;
        (token, Completed { token: (), result, status, data })
    }
    fn reply(answer: Completed<()>) -> (Reply, Option<BufMut>) {
        let Completed { status, data, .. } = answer;
        let reply = if is_passing(status) { Reply::Later } else { Reply::Done(status.to_result()) };
        (reply, data)
    }
}

/// Whether a status says no more than that the target could not take the command at this moment, or that this path to
/// it could not. Such commands are tried again until their deadline.
fn is_passing(status: Status) -> bool {
    let passing = [Status::ABORTED_QUEUE_DELETED, Status::NAMESPACE_NOT_READY, Status::TRANSIENT_TRANSPORT];
    !status.is_do_not_retry() && (passing.contains(&status.without_flags()) || status.sct() == 3)
}

impl Nvme {
    /// Who we are to the target.
    pub(super) fn identity(&self) -> Result<Identity, RemoteError> {
        identity(&self.spec.host_nqn, &self.spec.nqn, self.session)
    }
}

impl Protocol for Nvme {
    type Wire = NvmeQueue;
    /// The namespace.
    type Extra = u32;

    fn uri(&self) -> String {
        self.spec.uri()
    }
    async fn associate(
        &self,
        host: &Host,
        options: &RemoteOptions,
        link: Weak<dyn Link>,
    ) -> Result<Association, RemoteError> {
        let caller = Caller { host, spec: &self.spec, options, session: self.session, link };
        let (association, reserving) = caller.associate().await?;
        self.reserving.set(reserving);
        Ok(association)
    }
    async fn close(association: &Association, host: &Host) {
        shut_down(host, &association.connections[0]).await;
        association.connections.iter().for_each(|connection| connection.hang_up());
    }
    async fn blocks(admin: &Connection, nsid: u32) -> Option<Blocks> {
        let done = admin.call(command::identify(cns::NAMESPACE, nsid)).await.ok()?;
        done.status.is_success().then(|| Blocks(parse::<IdentifyNamespace>(done).size.get()))
    }
    fn command(association: &Association, op: &Op) -> Command {
        let nsid = association.extra;
        let size = association.limits.geometry.block_size;
        match op {
            Op::Read(range) => command::read(nsid, *range, size.bytes_of(range.len).0 as usize),
            Op::Write(range, data, durability) => command::write(nsid, *range, data.clone(), *durability),
            Op::Flush => command::flush(nsid),
            Op::Deallocate(range) => command::deallocate(nsid, *range),
            Op::WriteZeroes(range, may_unmap, durability) => {
                command::write_zeroes(nsid, *range, *may_unmap, *durability)
            }
        }
    }
    fn probe(association: &Association) {
        let admin = &association.connections[0];
        if admin.in_flight() == 0 && admin.free() > 0 {
            admin.submit(command::keep_alive(), Token::Nobody);
        }
    }
}

/// What bring-up needs at each step.
pub(super) struct Caller<'a> {
    pub(super) host: &'a Host,
    pub(super) spec: &'a RemoteSpec,
    pub(super) options: &'a RemoteOptions,
    /// Names this opening of the disk; see [`identity`].
    pub(super) session: [u8; 16],
    pub(super) link: Weak<dyn Link>,
}

/// Who we are to the target. An ordinary host has one host identifier for its name, always the same. For a nexus the
/// identifier names the opening of the disk: once another opening has written, our target does not let this one in again,
/// so that of two nexuses of one volume the former can not take a member back by reconnecting.
pub(super) fn identity(host_nqn: &str, subsystem: &str, session: [u8; 16]) -> Result<Identity, RemoteError> {
    let name = |text: &str| Nqn::new(text).map_err(|why| RemoteError::Name { name: text.to_owned(), why });
    // FNV-1a, 128 bits: the same name gives the same identifier on every machine and in every version.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in host_nqn.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let host_nqn = name(host_nqn)?;
    let id = if host_nqn.is_nexus_host() { session } else { hash.to_be_bytes() };
    let host_id = *uuid::Builder::from_custom_bytes(id).into_uuid().as_bytes();
    Ok(Identity { host_nqn, host_id, subsystem: name(subsystem)? })
}

impl Caller<'_> {
    fn refused(&self, step: &'static str, status: Status) -> RemoteError {
        RemoteError::Refused { uri: self.spec.uri(), step, status }
    }
    fn lost(&self, why: String) -> RemoteError {
        RemoteError::Lost { uri: self.spec.uri(), why }
    }

    /// Opens a TCP connection and agrees on its parameters.
    async fn dial(
        &self,
        opened: &mut Opened,
        entries: u16,
        receive_bytes: usize,
    ) -> Result<Rc<Connection>, RemoteError> {
        let uri = || self.spec.uri();
        let stream = self
            .host
            .connect(&self.spec.host, self.spec.port)
            .await
            .map_err(|why| RemoteError::Connect { uri: uri(), why })?;
        let digests = Digests { header: self.options.header_digest, data: self.options.data_digest };
        let options = QueueOptions { entries, digests, receive_bytes };
        let connection = opened.keep(Connection::start(self.host, stream, Queue::new(options), self.link.clone()));
        match connection.ready().await {
            Ok(()) => Ok(connection),
            Err(why) => Err(self.lost(why)),
        }
    }

    /// A command that sets the association up; anything but success ends it.
    async fn must(
        &self,
        connection: &Connection,
        step: &'static str,
        command: Command,
    ) -> Result<Completed<()>, RemoteError> {
        let done = connection.call(command).await.map_err(|why| self.lost(why))?;
        if done.status.is_success() { Ok(done) } else { Err(self.refused(step, done.status)) }
    }

    async fn identify<T: Pod>(&self, admin: &Connection, cns: u8, nsid: u32) -> Result<T, RemoteError> {
        let done = self.must(admin, "Identify", command::identify(cns, nsid)).await?;
        Ok(parse(done))
    }

    /// Connects the admin queue and enables the controller; returns the controller's identifier and its largest queue.
    async fn enable(&self, admin: &Connection, identity: &Identity) -> Result<(u16, u16), RemoteError> {
        let kato = u32::try_from(self.options.keep_alive.as_millis()).unwrap_or(u32::MAX);
        let connect = command::connect(identity, 0, limits::ADMIN_QUEUE_ENTRIES, DYNAMIC_CONTROLLER, kato);
        let done = admin.call(connect).await.map_err(|why| self.lost(why))?;
        match done.status.without_flags() {
            Status::SUCCESS => {}
            Status::CONNECT_PARAMETERS => return Err(RemoteError::NoSuchSubsystem { uri: self.spec.uri() }),
            Status::CONNECT_HOST => {
                let host_nqn = self.spec.host_nqn.clone();
                return Err(RemoteError::HostRefused { uri: self.spec.uri(), host_nqn });
            }
            _ => return Err(self.refused("Connect", done.status)),
        }
        let controller = done.result as u16;
        let cap = self.must(admin, "Property Get CAP", command::property_get(property::CAP, true)).await?.result;
        // CAP.MQES, 0's based, in bits 15:0; CAP.TO, in units of 500 ms, in bits 31:24 (Base figure 36).
        let entries = (cap as u16).saturating_add(1).max(2);
        let patience = Duration::from_millis(500) * ((cap >> 24) as u8).max(1).into();
        let value = cc::ENABLE | cc::ENTRY_SIZES;
        self.must(admin, "Property Set CC", command::property_set(property::CC, value)).await?;
        let ready = async {
            loop {
                let get = command::property_get(property::CSTS, false);
                let status = self.must(admin, "Property Get CSTS", get).await?.result as u32;
                if status & csts::FATAL != 0 {
                    return Err(self.lost("the controller reports a fatal state".into()));
                }
                if status & csts::READY != 0 {
                    return Ok(());
                }
                self.host.sleep(POLL).await;
            }
        };
        let uri = self.spec.uri();
        self.host.timeout(patience, ready).await.ok_or(RemoteError::TimedOut { uri, limit: patience })??;
        Ok((controller, entries))
    }

    /// Brings an association up; also the reservations that its namespace offers.
    async fn associate(&self) -> Result<(Association, u8), RemoteError> {
        let mut opened = Opened::new();
        self.associate_with(&mut opened).await
    }

    async fn associate_with(&self, opened: &mut Opened) -> Result<(Association, u8), RemoteError> {
        let identity = identity(&self.spec.host_nqn, &self.spec.nqn, self.session)?;
        let admin = self.dial(opened, limits::ADMIN_QUEUE_ENTRIES, ADMIN_RECEIVE).await?;
        let (controller_id, most_entries) = self.enable(&admin, &identity).await?;
        let controller: IdentifyController = self.identify(&admin, cns::CONTROLLER, 0).await?;
        let (nsid, namespace, uuid) = self.find_namespace(&admin).await?;
        let limits = self.limits(&admin, &controller, &namespace).await?;

        let wanted = self.options.queues.clamp(1, limits::IO_QUEUES);
        let granted = self.must(&admin, "Set Features", command::set_queue_count(wanted)).await?.result as u32;
        // Both granted numbers are 0's based; submission queues in bits 15:0, completion queues in 31:16.
        let granted = (granted & 0xffff).min(granted >> 16).saturating_add(1);
        let queues = wanted.min(u16::try_from(granted).unwrap_or(u16::MAX));
        let entries = self.options.depth.clamp(1, limits::QUEUE_ENTRIES - 1).saturating_add(1).min(most_entries);
        // IOCCSZ counts 16 bytes and includes the 64 bytes of the command.
        let capsule = (controller.ioccsz.get() as usize).saturating_mul(16).saturating_sub(64);
        let in_capsule = if controller.icdoff.get() == 0 { capsule } else { 0 };
        for queue in 1..=queues {
            let connection = self.dial(opened, entries, IO_RECEIVE).await?;
            let connect = command::connect(&identity, queue, entries, controller_id, 0);
            self.must(&connection, "Connect of an I/O queue", connect).await?;
            connection.with(|queue| queue.set_in_capsule(in_capsule));
        }
        let instance: [u8; 16] = controller.vendor[..16].try_into().expect("16 bytes");
        let instance = Some(instance).filter(|id| *id != [0; 16]);
        let has_reservations = controller.oncs.get() & oncs::RESERVATIONS != 0;
        let reserving = if has_reservations { namespace.rescap } else { 0 };
        let connections = opened.take();
        Ok((Association { connections, reserved: 1, limits, uuid, instance, extra: nsid }, reserving))
    }

    /// The namespace to use: the one with the wanted UUID, or the first.
    async fn find_namespace(&self, admin: &Connection) -> Result<(u32, IdentifyNamespace, Option<Uuid>), RemoteError> {
        let list: [Le32; 1024] = self.identify(admin, cns::ACTIVE_NAMESPACES, 0).await?;
        let active = list.iter().map(|id| id.get()).take_while(|id| *id != 0).take(NAMESPACES);
        let mut found = None;
        for nsid in active {
            let namespace: IdentifyNamespace = self.identify(admin, cns::NAMESPACE, nsid).await?;
            let uuid = self.uuid_of(admin, nsid, &namespace).await?;
            match self.spec.uuid {
                Some(wanted) if uuid != Some(wanted) => found = uuid.or(found),
                _ => return Ok((nsid, namespace, uuid)),
            }
        }
        let uri = self.spec.uri();
        match (self.spec.uuid, found) {
            (Some(expected), Some(found)) => Err(RemoteError::Uuid { uri, expected, found: found.to_string() }),
            (Some(expected), None) if list[0].get() != 0 => {
                Err(RemoteError::Uuid { uri, expected, found: "none".into() })
            }
            _ => Err(RemoteError::NoNamespace { uri }),
        }
    }

    /// A namespace's UUID: the UUID descriptor, else the NGUID.
    async fn uuid_of(
        &self,
        admin: &Connection,
        nsid: u32,
        namespace: &IdentifyNamespace,
    ) -> Result<Option<Uuid>, RemoteError> {
        let done = admin.call(command::identify(cns::DESCRIPTORS, nsid)).await.map_err(|why| self.lost(why))?;
        let list = done.data.as_deref().map(identify::parse_descriptor_list).unwrap_or_default();
        let described = list.into_iter().find_map(|d| if let Descriptor::Uuid(uuid) = d { Some(uuid) } else { None });
        Ok(described.or(Some(namespace.nguid)).filter(|id| *id != [0; 16]).map(Uuid::from_bytes))
    }

    async fn limits(
        &self,
        admin: &Connection,
        controller: &IdentifyController,
        namespace: &IdentifyNamespace,
    ) -> Result<Limits, RemoteError> {
        let uri = || self.spec.uri();
        let format = namespace.current_format();
        let bytes = 1u32.checked_shl(format.data_shift.into()).unwrap_or(0);
        let block_size = match BlockSize::from_bytes(bytes) {
            Some(size) if format.metadata.get() == 0 => size,
            _ => return Err(RemoteError::BlockSize { uri: uri(), bytes, metadata: format.metadata.get() }),
        };
        let blocks = Blocks(namespace.size.get());
        if blocks.0 == 0 || block_size.bytes_of(blocks).0 >> block_size.shift() != blocks.0 {
            return Err(RemoteError::Size { uri: uri(), blocks: blocks.0 });
        }
        let has = |bit| controller.oncs.get() & bit != 0;
        // MDTS is a power of two of the smallest page (4 KiB for all that speak fabrics); 0 means no limit.
        let bytes = |power: u8| 4096usize.checked_shl(power.into()).unwrap_or(usize::MAX);
        let mdts = if controller.mdts == 0 { usize::MAX } else { bytes(controller.mdts) };
        let in_blocks = |bytes: usize| Blocks(((bytes >> block_size.shift()) as u64).clamp(1, 1 << 16));
        let zeroes = if has(oncs::WRITE_ZEROES) {
            let nvm = admin.call(command::identify(cns::COMMAND_SET_CONTROLLER, 0)).await;
            let nvm = nvm.map_err(|why| self.lost(why))?;
            // Write Zeroes moves no data, so that MDTS does not bind it; controllers that do not speak of its own limit
            // (WZSL) are older than it, and for them the cautious reading is that it does.
            let most = match nvm.status.is_success().then(|| parse::<IdentifyNvmController>(nvm).wzsl) {
                Some(0) => usize::MAX,
                Some(power) => bytes(power),
                None => mdts,
            };
            Some(in_blocks(most))
        } else {
            None
        };
        // Dataset Management is a hint that a target may ignore; Write Zeroes with DEAC is a promise. So the hint is used
        // only where nothing better is offered and the target says that deallocated blocks read as zeroes (DLFEAT).
        let unmap = match (zeroes, has(oncs::DATASET_MANAGEMENT), namespace.dlfeat & 7) {
            (Some(_), _, _) if namespace.dlfeat & 8 != 0 => Clear::WriteZeroes,
            (_, true, 1) => Clear::Deallocate,
            (Some(_), _, _) => Clear::WriteZeroes,
            _ => Clear::Write,
        };
        let features = Features {
            unmap: unmap == Clear::Deallocate || unmap == Clear::WriteZeroes && namespace.dlfeat & 8 != 0,
            write_zeroes: zeroes.is_some(),
            volatile_cache: controller.vwc & 1 != 0,
            ends_with_process: false,
        };
        Ok(Limits {
            geometry: Geometry { block_size, blocks, features },
            transfer: in_blocks(mdts.min(limits::TRANSFER_BYTES)),
            zeroes,
            unmap,
        })
    }

    /// Reads the discovery log of the target.
    pub(super) async fn discover(&self) -> Result<Vec<DiscoveryEntry>, RemoteError> {
        let mut opened = Opened::new();
        let identity = identity(&self.spec.host_nqn, &self.spec.nqn, self.session)?;
        let admin = self.dial(&mut opened, limits::ADMIN_QUEUE_ENTRIES, ADMIN_RECEIVE).await?;
        self.enable(&admin, &identity).await?;
        for _ in 0..LOG_ATTEMPTS {
            if let Some(entries) = self.read_log(&admin).await? {
                shut_down(self.host, &admin).await;
                return Ok(entries);
            }
        }
        Err(self.lost("its discovery log changes all the time".into()))
    }

    /// The whole log; `None` when it changed while it was read.
    async fn read_log(&self, admin: &Connection) -> Result<Option<Vec<DiscoveryEntry>>, RemoteError> {
        let head: DiscoveryHeader = self.log(admin, 0, size_of::<DiscoveryHeader>()).await?;
        let records = head.records.get();
        if records > limits::SUBSYSTEMS as u64 + 1 {
            return Err(self.lost(format!("its discovery log claims {records} entries")));
        }
        let entry_bytes = size_of::<log::DiscoveryEntry>();
        let mut entries = Vec::new();
        while (entries.len() as u64) < records {
            let n = (records - entries.len() as u64).min(LOG_CHUNK) as usize;
            let offset = (size_of::<DiscoveryHeader>() + entries.len() * entry_bytes) as u64;
            let get = command::log_page(log::page::DISCOVERY, offset, n * entry_bytes);
            let done = self.must(admin, "Get Log Page", get).await?;
            let bytes = done.data.as_deref().expect("a read that succeeded brings its data");
            entries.extend(bytes.chunks_exact(entry_bytes).map(|chunk| parse_entry(&pod(chunk))));
        }
        let again: DiscoveryHeader = self.log(admin, 0, size_of::<DiscoveryHeader>()).await?;
        Ok((again.generation == head.generation).then_some(entries))
    }

    async fn log<T: Pod>(&self, admin: &Connection, offset: u64, bytes: usize) -> Result<T, RemoteError> {
        let get = command::log_page(log::page::DISCOVERY, offset, bytes);
        Ok(parse(self.must(admin, "Get Log Page", get).await?))
    }
}

/// The structure at the start of what a command brought. The machine believes a success only with all of its data.
fn parse<T: Pod>(done: Completed<()>) -> T {
    pod(done.data.as_deref().expect("a read that succeeded brings its data"))
}

fn pod<T: Pod>(bytes: &[u8]) -> T {
    wire::view(bytes).expect("as many bytes as were asked for")
}

fn parse_entry(entry: &log::DiscoveryEntry) -> DiscoveryEntry {
    let text = |field: &[u8]| wire::text(field).unwrap_or("?").to_owned();
    DiscoveryEntry {
        is_discovery: entry.subtype != log::SUBTYPE_NVM,
        is_tcp: entry.transport == log::TRANSPORT_TCP,
        nqn: text(&entry.subsystem_nqn),
        address: text(&entry.address),
        service: text(&entry.service),
    }
}

/// Tells the controller to shut down and waits a little until it has (Base 3.6.1).
async fn shut_down(host: &Host, admin: &Connection) {
    let value = cc::ENABLE | cc::ENTRY_SIZES | cc::SHUTDOWN_NORMAL;
    let orderly = async {
        admin.call(command::property_set(property::CC, value)).await?;
        while admin.call(command::property_get(property::CSTS, false)).await?.result as u32 & csts::SHUTDOWN
            != csts::SHUTDOWN_COMPLETE
        {
            host.sleep(POLL).await;
        }
        Ok::<(), String>(())
    };
    // A target that does not answer any more loses its connections all the same.
    let _ = host.timeout(SHUTDOWN, orderly).await;
    admin.hang_up();
}
