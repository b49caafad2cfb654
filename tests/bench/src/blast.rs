//! A load that costs several times less than the target, so that the target is the bottleneck: capsules built beforehand
//! leave a memory file by `sendfile`, answers are counted by their length and thrown away in the kernel (`MSG_TRUNC`).
//!
//! It relies on a device that answers in order, as a RAM disk does: the command identifiers go round.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use block::{BlockRange, Buf, Durability};
use nvme::fabrics::{DYNAMIC_CONTROLLER, cc, csts, property};
use nvme::initiator::command::{self, Identity};
use nvme::initiator::{Command, Completed, Payload, Queue, QueueOptions, Receive};
use nvme::pdu::{self, CommandPdu, Digests, ResponsePdu, TransferPdu};
use nvme::{Nqn, wire::Le16};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::Result;
use crate::cluster::{Clock, Export};

/// Capsules in the memory file: enough for random places, few enough for the cache of headers.
const CAPSULES: u64 = 16 * 1024;
/// Writes carry data, so there are fewer.
const WRITES: u64 = 4 * 1024;
const BLOCK: usize = 4096;
const NAMESPACE: u32 = 1;

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Blast {
    /// Reads, or writes inside capsules.
    pub is_read: bool,
    /// Commands in flight, at most 127.
    pub depth: u16,
}

impl Blast {
    /// Random requests of 4 KiB for `time`, after a short warm-up; returns how many were answered, in which time, and what
    /// the engines spent on them.
    pub fn run(self, target: &Export, time: Duration, clock: &Clock) -> Result<(u64, Duration, Duration)> {
        let mut session = Session::open(target)?;
        let blocks = crate::cluster::DEVICE_BYTES / session.block_bytes;
        let (capsules, bytes) = self.capsules(&session, blocks)?;
        session.burst(self, &capsules, bytes, Duration::from_millis(200))?;
        let before = clock.now()?;
        let (count, elapsed) = session.burst(self, &capsules, bytes, time)?;
        Ok((count, elapsed, clock.now()?.saturating_sub(before)))
    }

    /// The memory file with the capsules, and the length of one.
    fn capsules(self, session: &Session, blocks: u64) -> Result<(OwnedFd, usize)> {
        let mut file = std::fs::File::from(memfd_create("capsules", MemfdFlags::CLOEXEC)?);
        let mut all = Vec::new();
        let mut bytes = 0;
        let per_request = BLOCK as u64 / session.block_bytes;
        let mut place = 88_172_645_463_325_252u64;
        // The identifiers must be as many as commands in flight also where the file begins again.
        let count = if self.is_read { CAPSULES } else { WRITES } / u64::from(self.depth) * u64::from(self.depth);
        for n in 0..count {
            // xorshift64: any places will do.
            place ^= place << 13;
            place ^= place >> 7;
            place ^= place << 17;
            let range = BlockRange::new(place % (blocks / per_request) * per_request, per_request);
            let mut capsule = if self.is_read {
                command::read(NAMESPACE, range, BLOCK)
            } else {
                command::write(NAMESPACE, range, Buf::zeroes(BLOCK), Durability::Volatile)
            };
            capsule.sqe.cid = Le16::new((n % u64::from(self.depth)) as u16);
            let before = all.len();
            match capsule.payload {
                Payload::In(len) => {
                    capsule.sqe.sgl = nvme::command::Sgl::transport(len as u32);
                    all.extend_from_slice(bytemuck::bytes_of(&pdu::command(Digests::default(), 0, capsule.sqe, 0)));
                }
                Payload::Out(data) => {
                    capsule.sqe.sgl = nvme::command::Sgl::in_capsule(data.len() as u32);
                    let header = pdu::command(Digests::default(), 0, capsule.sqe, data.len());
                    all.extend_from_slice(bytemuck::bytes_of(&header));
                    all.resize(before + usize::from(header.common.data_offset), 0);
                    all.extend_from_slice(&data);
                }
                Payload::None => {}
            }
            bytes = all.len() - before;
        }
        file.write_all(&all)?;
        assert!(bytes >= size_of::<CommandPdu>());
        Ok((file.into(), bytes))
    }

    /// The bytes of one answer.
    fn answer_bytes(self) -> usize {
        if self.is_read { size_of::<TransferPdu>() + BLOCK } else { size_of::<ResponsePdu>() }
    }
}

/// Two connections of one association, brought up.
struct Session {
    /// The association ends with it.
    _admin: Link,
    io: Link,
    block_bytes: u64,
    /// Where in the file the next capsule begins.
    position: u64,
}

impl Session {
    fn open(target: &Export) -> Result<Session> {
        let identity = Identity {
            host_nqn: Nqn::new("nqn.2019-05.io.openebs:blast")?,
            host_id: [7; 16],
            subsystem: Nqn::new(&target.nqn)?,
        };
        let mut admin = Link::open(target, 32)?;
        let controller = admin.call(command::connect(&identity, 0, 32, DYNAMIC_CONTROLLER, 0))?.result as u16;
        admin.call(command::property_set(property::CC, cc::ENABLE | cc::ENTRY_SIZES))?;
        while admin.call(command::property_get(property::CSTS, false))?.result as u32 & csts::READY == 0 {}
        admin.call(command::set_queue_count(1))?;
        let identify = admin.call(command::identify(nvme::identify::cns::NAMESPACE, NAMESPACE))?;
        let data = identify.data.ok_or("Identify brought nothing")?;
        let namespace: nvme::identify::IdentifyNamespace = nvme::wire::view(&data).ok_or("Identify is too short")?;
        let block_bytes = 1u64 << namespace.current_format().data_shift;
        let mut io = Link::open(target, 128)?;
        io.call(command::connect(&identity, 1, 128, controller, 0))?;
        Ok(Session { _admin: admin, io, block_bytes, position: 0 })
    }

    /// Keeps the queue full for `time` and then empties it.
    fn burst(&mut self, blast: Blast, capsules: &OwnedFd, bytes: usize, time: Duration) -> Result<(u64, Duration)> {
        let total = rustix::fs::fstat(capsules)?.st_size as u64;
        let mut sink = vec![0; 1 << 20];
        let (begin, answer) = (Instant::now(), blast.answer_bytes());
        let (mut sent, mut answered, mut rest) = (0u64, 0u64, 0usize);
        loop {
            let room = u64::from(blast.depth) - (sent - answered);
            if begin.elapsed() >= time && room > 0 {
                if sent == answered {
                    return Ok((answered, begin.elapsed()));
                }
            } else if room > 0 {
                let mut left = room as usize * bytes;
                sent += room;
                while left > 0 {
                    let part = left.min((total - self.position) as usize);
                    let mut at = self.position;
                    let n = sendfile(&self.io.stream, capsules, Some(&mut at), part)?;
                    self.position = at % total;
                    left -= n;
                }
            }
            // Only counted: the kernel throws the bytes away. Polled, so that the target is not charged for waking us.
            match recv(&self.io.stream, &mut sink[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err("the target closed the connection".into()),
                Ok((_, n)) => rest += n,
                Err(Errno::AGAIN) => std::hint::spin_loop(),
                Err(e) => return Err(e.into()),
            }
            answered += (rest / answer) as u64;
            rest %= answer;
        }
    }
}

/// One connection, one command at a time, for the bring-up.
struct Link {
    stream: TcpStream,
    queue: Queue<()>,
}

impl Link {
    fn open(target: &Export, entries: u16) -> Result<Link> {
        let stream = TcpStream::connect((target.host.as_str(), target.port))?;
        stream.set_nodelay(true)?;
        let options = QueueOptions { entries, digests: Digests::default(), receive_bytes: 16 << 10 };
        let mut link = Link { stream, queue: Queue::new(options) };
        while !link.queue.is_ready() {
            link.turn()?;
        }
        Ok(link)
    }

    fn call(&mut self, command: Command) -> Result<Completed<()>> {
        self.queue.submit(command, ());
        loop {
            if let Some(done) = self.turn()? {
                if done.status.is_success() {
                    return Ok(done);
                }
                return Err(format!("the target refused a command: {:?}", done.status).into());
            }
        }
    }

    fn turn(&mut self) -> Result<Option<Completed<()>>> {
        for buf in self.queue.output() {
            self.stream.write_all(&buf)?;
        }
        let Receive { mut buf, from, max } = self.queue.receive();
        let n = self.stream.read(&mut buf[from..from + max])?;
        let mut done = Vec::new();
        self.queue.received(buf, n, &mut done).map_err(|violation| violation.to_string())?;
        Ok(done.pop())
    }
}
