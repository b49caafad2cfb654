//! A logical unit of an iSCSI target as a disk: our own initiator, in user space, under the same supervisor as NVMe/TCP.
//!
//! **Why a write may be sent again.** A session that was lost may have left a write behind in the target, which must not
//! land after the retry (a *ghost write*). Every association of one opening logs in with the same initiator name and ISID.
//! To the target that is *session reinstatement* (RFC 7143, 6.3.5): it ends the old session, and with it all of its tasks,
//! before it lets the new one in. Our target answers the login only when no disk works on a task of the old session any
//! more. One of another make has promised the same by the standard, and no initiator could do more.
//!
//! **A target that restarts** may have lost writes that were answered and not flushed. Our target names its run in its
//! INQUIRY data. One of another make does not; when its unit has a volatile cache (WCE), every new session counts as a
//! restart, and [`OnRestart`](super::OnRestart) says what follows.
//!
//! **Clearing blocks.** WRITE SAME, with UNMAP where the unit promises that unmapped blocks read as zeroes (LBPRZ). UNMAP
//! alone may leave parts of a granule as they were, so it is not used.
//!
//! Reservations are not made over iSCSI: a nexus that was replaced while it was cut off is kept from such a member only by
//! its ledger.

use std::rc::{Rc, Weak};
use std::time::Duration;

use block::link::Receive;
use block::{BlockSize, Blocks, Buf, BufMut, Fault, Features, Geometry, Request, Ticket, limits};
use host::{Disk, Host, LocalFuture};
use iscsi::IscsiName;
use iscsi::chap::Chap;
use iscsi::initiator::{Ask, Command, Completed, Session, SessionOptions, Verdict, command};
use uuid::Uuid;

use super::connection::{Link, Token, Wire};
use super::flights::{Clear, Limits, Op, Reply};
use super::protocol::{Association, Opened, Protocol};
use super::supervisor::Inner;
use super::{RemoteError, RemoteOptions, RemoteState};

/// A unit that has something to tell first, or is becoming ready, is asked again so often.
const PATIENCE: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);
/// How long an orderly logout may take before the connection is closed all the same.
const SHUTDOWN: Duration = Duration::from_millis(500);
/// The most blocks of one WRITE SAME where the unit sets no limit of its own.
const ZERO_BLOCKS: u64 = 32 << 10;

/// Which logical unit, and as whom.
#[derive(Clone, Debug)]
pub struct IscsiSpec {
    /// Host name or address of the target.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The target's name.
    pub target: String,
    /// The logical unit.
    pub lun: u16,
    /// Our name.
    pub initiator: String,
    /// The unit's identity, when it is known: nothing else is accepted then.
    pub uuid: Option<Uuid>,
    /// What we prove, and what the target has to prove in turn.
    pub chap: Option<Chap>,
}

impl IscsiSpec {
    /// The URI, as a person would write it.
    pub fn uri(&self) -> String {
        let (host, port) = (&self.host, self.port);
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("iscsi://{host}:{port}/{}/{}", self.target, self.lun)
    }
}

type Line = Session<Token<Completed<()>>>;
type Connection = super::connection::Connection<Line>;

impl Wire for Line {
    type Command = Ask;
    type Answer = Completed<()>;
    type Completed = Completed<Token<Completed<()>>>;

    fn is_ready(&self) -> bool {
        Session::is_ready(self)
    }
    fn free(&self) -> usize {
        Session::free(self)
    }
    fn in_flight(&self) -> usize {
        Session::in_flight(self)
    }
    fn submit(&mut self, ask: Ask, token: Token<Completed<()>>) {
        Session::submit(self, ask, token);
    }
    fn has_output(&self) -> bool {
        Session::has_output(self)
    }
    fn output(&mut self) -> Vec<Buf> {
        Session::output(self)
    }
    fn receive(&mut self) -> Receive {
        Session::receive(self)
    }
    fn received(&mut self, buf: BufMut, n: usize, done: &mut Vec<Self::Completed>) -> Result<(), String> {
        Session::received(self, buf, n, done).map_err(|violation| violation.to_string())
    }
    fn drain(&mut self) -> Vec<Token<Completed<()>>> {
        Session::drain(self)
    }
    fn split(completed: Self::Completed) -> (Token<Completed<()>>, Completed<()>) {
        let Completed { token, status, sense, data } = completed;
        (token, Completed { token: (), status, sense, data })
    }
    fn reply(answer: Completed<()>) -> (Reply, Option<BufMut>) {
        let reply = match command::verdict(answer.status, &answer.sense) {
            Verdict::Done(outcome) => Reply::Done(outcome),
            Verdict::Later => Reply::Later,
        };
        (reply, answer.data)
    }
}

/// A logical unit.
struct Unit {
    spec: IscsiSpec,
    /// Our part of the identity of all sessions of this opening.
    isid: [u8; 6],
}

impl Protocol for Unit {
    type Wire = Line;
    type Extra = ();

    fn uri(&self) -> String {
        self.spec.uri()
    }

    async fn associate(
        &self,
        host: &Host,
        options: &RemoteOptions,
        link: Weak<dyn Link>,
    ) -> Result<Association<Self>, RemoteError> {
        let name = |text: &str| {
            IscsiName::new(text).map_err(|why| RemoteError::Lost { uri: self.spec.uri(), why: why.to_string() })
        };
        let session = SessionOptions {
            initiator: name(&self.spec.initiator)?,
            isid: self.isid,
            target: name(&self.spec.target)?,
            lun: self.spec.lun,
            depth: options.depth,
            header_digest: options.header_digest,
            data_digest: options.data_digest,
            chap: self.spec.chap.clone(),
            seed: host.random_bytes(),
        };
        let stream = host
            .connect(&self.spec.host, self.spec.port)
            .await
            .map_err(|why| RemoteError::Connect { uri: self.spec.uri(), why })?;
        let mut opened = Opened::new();
        let line = opened.keep(Connection::start(host, stream, Session::new(session), link));
        line.ready().await.map_err(|why| self.lost(why))?;
        let (limits, uuid, instance) = self.look(host, &line).await?;
        Ok(Association { connections: opened.take(), reserved: 0, limits, uuid, instance, extra: () })
    }

    async fn close(association: &Association<Self>, host: &Host) {
        let Some(line) = association.connections.first() else { return };
        if line.with(|session| session.is_ready()) {
            // A target that does not answer any more loses its connection all the same.
            let _ = host.timeout(SHUTDOWN, line.call(Ask::Logout)).await;
        }
        line.hang_up();
    }

    async fn blocks(line: &Connection, (): ()) -> Option<Blocks> {
        let done = line.call(Ask::Command(command::capacity())).await.ok()?;
        let (blocks, ..) = command::parse_capacity(done.data.as_deref()?)?;
        Some(Blocks(blocks))
    }

    fn command(association: &Association<Self>, op: &Op) -> Ask {
        let size = association.limits.geometry.block_size;
        Ask::Command(match op {
            Op::Read(range) => command::read(*range, size.bytes_of(range.len).0 as usize),
            Op::Write(range, data, durability) => command::write(*range, data.clone(), *durability),
            Op::Flush => command::flush(),
            Op::WriteZeroes(range, may_unmap, _) => {
                let unmap = *may_unmap && association.limits.geometry.features.unmap;
                command::zero(*range, size.bytes() as usize, unmap)
            }
            Op::Deallocate(_) => unreachable!("the limits do not offer it"),
        })
    }

    fn probe(association: &Association<Self>) {
        let line = &association.connections[0];
        if line.with(|session| !session.is_pinging() && session.is_ready()) && !line.is_over() {
            line.submit(Ask::Ping, Token::Nobody);
        }
    }
}

impl Unit {
    fn lost(&self, why: impl Into<String>) -> RemoteError {
        RemoteError::Lost { uri: self.spec.uri(), why: why.into() }
    }

    /// A command of the bring-up; its data, or `None` when the unit does not know it.
    async fn ask(&self, host: &Host, line: &Connection, command: Command) -> Result<Option<BufMut>, RemoteError> {
        for _ in 0..PATIENCE {
            let done = line.call(Ask::Command(command.clone())).await.map_err(|why| self.lost(why))?;
            match command::verdict(done.status, &done.sense) {
                Verdict::Done(Ok(())) => return Ok(Some(done.data.unwrap_or_else(|| BufMut::new(0)))),
                Verdict::Done(Err(Fault::Unsupported)) => return Ok(None),
                Verdict::Done(Err(fault)) => return Err(self.lost(format!("the logical unit is not usable: {fault}"))),
                Verdict::Later => host.sleep(PAUSE).await,
            }
        }
        Err(self.lost("the logical unit does not become ready"))
    }

    /// What the unit is, who it is, and which run of the target this is.
    async fn look(
        &self,
        host: &Host,
        line: &Connection,
    ) -> Result<(Limits, Option<Uuid>, Option<[u8; 16]>), RemoteError> {
        let uri = || self.spec.uri();
        let standard = self.ask(host, line, command::inquiry(None)).await?;
        let standard = standard.ok_or_else(|| self.lost("it does not answer INQUIRY"))?;
        // Peripheral qualifier and device type: a disk that is there.
        if standard.first() != Some(&0) {
            return Err(self.lost(format!("there is no disk at logical unit {}", self.spec.lun)));
        }
        self.ask(host, line, command::ready()).await?;
        let pages = self.ask(host, line, command::inquiry(Some(0))).await?.map(|p| p.to_vec()).unwrap_or_default();
        let has = |page: u8| pages.get(4..).unwrap_or_default().contains(&page);
        let mut page = [Vec::new(), Vec::new(), Vec::new()];
        for (place, code) in page.iter_mut().zip([0x83, 0xb0, 0xb2]).filter(|(_, code)| has(*code)) {
            *place = self.ask(host, line, command::inquiry(Some(code))).await?.map(|p| p.to_vec()).unwrap_or_default();
        }
        let [identification, block_limits, provisioning] = page;
        let uuid = identity(&identification);
        match (self.spec.uuid, uuid) {
            (Some(expected), found) if found != Some(expected) => {
                let found = found.map_or("one without an identity".to_owned(), |uuid| uuid.to_string());
                return Err(RemoteError::Uuid { uri: uri(), expected, found });
            }
            _ => {}
        }
        let capacity = self.ask(host, line, command::capacity()).await?;
        let capacity = capacity.as_deref().and_then(command::parse_capacity);
        let (blocks, bytes, reads_zeroes) = capacity.ok_or_else(|| self.lost("its capacity makes no sense"))?;
        let block_size = BlockSize::from_bytes(bytes);
        let block_size = block_size.ok_or_else(|| RemoteError::BlockSize { uri: uri(), bytes, metadata: 0 })?;
        let size = block_size.bytes_of(Blocks(blocks));
        if blocks == 0 || size.0 >> block_size.shift() != blocks {
            return Err(RemoteError::Size { uri: uri(), blocks });
        }
        let caching = self.ask(host, line, command::caching()).await?;
        let caching = command::parse_caching(caching.as_deref().unwrap_or_default());
        if caching.protected {
            return Err(self.lost("the logical unit is write-protected"));
        }
        let (transfer, same) = command::parse_limits(&block_limits);
        let most = Blocks(limits::TRANSFER_BYTES as u64 >> block_size.shift());
        // LBPWS: WRITE SAME (16) with UNMAP is there.
        let unmaps = provisioning.get(5).is_some_and(|flags| flags & 0x40 != 0);
        let zeroes = match same {
            0 if unmaps => Some(Blocks(ZERO_BLOCKS)),
            0 => None,
            limit => Some(Blocks(limit.min(ZERO_BLOCKS))),
        };
        let features = Features {
            unmap: unmaps && reads_zeroes && zeroes.is_some(),
            write_zeroes: zeroes.is_some(),
            volatile_cache: caching.volatile,
            ends_with_process: false,
        };
        let limits = Limits {
            geometry: Geometry { block_size, blocks: Blocks(blocks), features },
            transfer: if transfer == 0 { most } else { most.min(Blocks(transfer.into())) },
            zeroes,
            unmap: if zeroes.is_some() { Clear::WriteZeroes } else { Clear::Write },
        };
        let ours = standard.get(8..16) == Some(iscsi::scsi::pages::VENDOR.as_bytes());
        let named: Option<[u8; 16]> = standard.get(36..52).and_then(|run| run.try_into().ok());
        let instance = match named.filter(|run| ours && *run != [0; 16]) {
            Some(run) => Some(run),
            None if caching.volatile => Some(host.random_bytes()),
            None => None,
        };
        Ok((limits, uuid, instance))
    }
}

/// Who a unit is: the UUID that one of ours tells, else one that is made of the strongest name that it has (NAA, EUI-64,
/// T10), the same each time.
fn identity(page: &[u8]) -> Option<Uuid> {
    let names = command::parse_identification(page);
    let vendor = iscsi::scsi::pages::VENDOR.as_bytes();
    let own = names.iter().find_map(|(kind, value)| {
        let text = value.strip_prefix(vendor).filter(|_| *kind == 1)?;
        Uuid::try_parse_ascii(text).ok()
    });
    let hashed = || {
        let (kind, value) = [3, 2, 1].into_iter().find_map(|kind| names.iter().find(|(k, _)| *k == kind))?;
        // FNV-1a of 128 bits: spreads names well, and is no secret.
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in std::iter::once(kind).chain(*value) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Some(uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid())
    };
    own.or_else(hashed)
}

/// A logical unit. When it is dropped, the session is ended in order, in the background.
pub struct IscsiDisk {
    inner: Rc<Inner<Unit>>,
}

/// Logs in to a target and opens a logical unit. What it says about itself stays constant for the life of the disk,
/// but for its size, which may grow.
pub async fn connect(host: &Host, spec: IscsiSpec, options: RemoteOptions) -> Result<Rc<IscsiDisk>, RemoteError> {
    let [_, b, c, d, e, f, ..] = host.random_bytes();
    // Type 10b: random.
    let unit = Unit { spec, isid: [0x80, b, c, d, e, f] };
    Ok(Rc::new(IscsiDisk { inner: Inner::start(host, unit, options).await? }))
}

impl IscsiDisk {
    /// Where the disk stands.
    pub fn state(&self) -> RemoteState {
        self.inner.state()
    }
    /// The unit's identity, if it has one.
    pub fn uuid(&self) -> Option<Uuid> {
        self.inner.uuid()
    }
    /// Tells the owner of every change of state; see [`super::RemoteDisk::on_change`].
    pub fn on_change(&self, callback: impl Fn(&RemoteState) + 'static) {
        self.inner.on_change(Box::new(callback));
    }
    /// Answers what is in flight with [`block::Fault::Aborted`], logs out and waits for that.
    pub async fn close(&self) {
        self.inner.begin_close();
        self.inner.closed().await;
    }
}

impl Disk for IscsiDisk {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn refresh(&self) -> LocalFuture<'_, Result<Geometry, Fault>> {
        Box::pin(self.inner.refresh())
    }
    fn submit(&self, request: Request, ticket: Ticket) {
        match request.check(&self.geometry()) {
            Ok(()) => self.inner.submit(request, ticket),
            Err(fault) => ticket.fail(fault),
        }
    }
    fn label(&self) -> String {
        self.inner.protocol().spec.uri()
    }
    fn run(&self) -> Option<[u8; 16]> {
        // A target that does not say is taken to be always the same.
        Some(self.inner.instance().unwrap_or_default())
    }
}

impl Drop for IscsiDisk {
    fn drop(&mut self) {
        self.inner.begin_close();
    }
}
