//! What all targets of a node have in common: a listener, the sockets of its connections, the clock, and the devices
//! behind a machine of `nvme`, `iscsi` or `nbd`.
//!
//! One task a connection, none a command. A connection's task receives, feeds the machine, and sends what has
//! accumulated while the last send was under way; disks leave their answers in the connection's queue.

mod link;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::link::{ConnectionId, Phase, Receive};
use block::{Buf, BufMut, Instant};
use futures_channel::oneshot;
use host::{AnyListener, AnyStream, Host, JoinHandle, Notify, Queue};

/// How long to wait when the system refuses a connection (out of descriptors and the like).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A target machine. What each call means, the machine says.
pub(crate) trait Machine: Sized + 'static {
    /// Names a served device.
    type Export: Copy + Ord;
    /// What is behind it.
    type Device: Clone;
    /// What the machine wants to be done.
    type Effect;
    /// What a connection is told, beside what was received.
    type Event;

    fn accept(&mut self, host: &Host, out: &mut Vec<Self::Effect>) -> Option<ConnectionId>;
    fn receive(&mut self, id: ConnectionId) -> Option<Receive>;
    fn on_received(&mut self, id: ConnectionId, buf: BufMut, received: usize, out: &mut Vec<Self::Effect>);
    fn on_event(&mut self, id: ConnectionId, event: Self::Event, out: &mut Vec<Self::Effect>);
    fn on_lost(&mut self, id: ConnectionId, out: &mut Vec<Self::Effect>);
    fn take_output(&mut self, id: ConnectionId) -> Vec<Buf>;
    fn phase(&self, id: ConnectionId) -> Phase;
    fn remove(&mut self, id: ConnectionId);
    fn connections(&self) -> usize;
    fn unexport(&mut self, export: Self::Export, out: &mut Vec<Self::Effect>);
    fn finish_all(&mut self, out: &mut Vec<Self::Effect>);
    fn deadline(&self) -> Option<Instant>;
    fn on_time(&mut self, now: Instant, out: &mut Vec<Self::Effect>);

    /// Whether the machine has something to do when its output has left. If not, a send costs no look at it.
    const WANTS_SENT: bool = false;
    /// What was taken with [`Machine::take_output`] is sent.
    fn on_sent(&mut self, _: ConnectionId, _: &mut Vec<Self::Effect>) {}

    /// Does what the machine wants. The machine is not borrowed, since a disk may answer at once.
    fn perform(shared: &Shared<Self>, effect: Self::Effect);
}

/// The calls of [`Machine`] that a machine has under the same names.
macro_rules! machine_calls {
    ($machine:ty) => {
        fn receive(&mut self, id: ConnectionId) -> Option<Receive> {
            <$machine>::receive(self, id)
        }
        fn on_received(&mut self, id: ConnectionId, buf: BufMut, received: usize, out: &mut Vec<Self::Effect>) {
            <$machine>::on_received(self, id, buf, received, out);
        }
        fn on_lost(&mut self, id: ConnectionId, out: &mut Vec<Self::Effect>) {
            <$machine>::on_lost(self, id, out);
        }
        fn take_output(&mut self, id: ConnectionId) -> Vec<Buf> {
            <$machine>::take_output(self, id)
        }
        fn phase(&self, id: ConnectionId) -> Phase {
            <$machine>::phase(self, id)
        }
        fn remove(&mut self, id: ConnectionId) {
            <$machine>::remove(self, id);
        }
        fn connections(&self) -> usize {
            <$machine>::connections(self)
        }
        fn unexport(&mut self, export: Self::Export, out: &mut Vec<Self::Effect>) {
            <$machine>::unexport(self, export, out);
        }
        fn finish_all(&mut self, out: &mut Vec<Self::Effect>) {
            <$machine>::finish_all(self, out);
        }
        fn deadline(&self) -> Option<Instant> {
            <$machine>::deadline(self)
        }
        fn on_time(&mut self, now: Instant, out: &mut Vec<Self::Effect>) {
            <$machine>::on_time(self, now, out);
        }
    };
}
pub(crate) use machine_calls;

/// A machine at work. Every method is to be called on the thread that started it.
pub(crate) struct Server<M: Machine> {
    shared: Rc<Shared<M>>,
    /// Who accepts connections; the tasks of listeners end first.
    accepting: RefCell<Vec<JoinHandle<()>>>,
    timing: RefCell<Option<JoinHandle<()>>>,
}

/// What the tasks of a target share.
pub(crate) struct Shared<M: Machine> {
    host: Host,
    machine: RefCell<M>,
    devices: RefCell<BTreeMap<M::Export, M::Device>>,
    /// The queue of each connection, by index.
    queues: RefCell<Vec<Queue<Told<M>>>>,
    /// Who waits for the end of an export.
    retiring: RefCell<BTreeMap<M::Export, oneshot::Sender<()>>>,
    /// The machine's deadline may have changed.
    timer: Notify,
    /// A connection has ended.
    ended: Notify,
}

/// What a connection's task is told.
enum Told<M: Machine> {
    /// Something for the machine.
    Event(M::Event),
    /// Something else has changed.
    Wake,
}

/// Where the answers for one connection go.
pub(crate) struct Answers<M: Machine>(Queue<Told<M>>);

impl<M: Machine> Answers<M> {
    /// Leaves an answer for the connection's task.
    pub(crate) fn push(&self, event: M::Event) {
        self.0.push(Told::Event(event));
    }
}

impl<M: Machine> Server<M> {
    /// Serves whoever comes to the listeners.
    pub(crate) fn start(host: &Host, machine: M, listeners: Vec<AnyListener>) -> Server<M> {
        let shared = Rc::new(Shared {
            host: host.clone(),
            machine: RefCell::new(machine),
            devices: RefCell::default(),
            queues: RefCell::default(),
            retiring: RefCell::default(),
            timer: Notify::default(),
            ended: Notify::default(),
        });
        let accepting = listeners.into_iter().map(|listener| host.spawn(accept(shared.clone(), listener))).collect();
        let timing = Some(host.spawn(keep_time(shared.clone())));
        Server { shared, accepting: RefCell::new(accepting), timing: RefCell::new(timing) }
    }

    /// Asks the machine something, or tells it something that has no effects.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut M) -> R) -> R {
        call(&mut self.shared.machine.borrow_mut())
    }

    /// Tells the machine something, and does what it wants.
    pub(crate) fn tell<R>(&self, call: impl FnOnce(&mut M, &mut Vec<M::Effect>) -> R) -> R {
        self.shared.tell(call)
    }

    /// The device behind an export.
    pub(crate) fn device(&self, export: M::Export) -> Option<M::Device> {
        self.shared.device(export)
    }

    /// Puts a device behind a new export.
    pub(crate) fn add(&self, export: M::Export, device: M::Device) {
        self.shared.devices.borrow_mut().insert(export, device);
    }

    /// Serves a device no longer. Clients get the answers of the commands that are at the device, then their connections
    /// are closed. Returns when the device is not used any more.
    pub(crate) async fn unexport(&self, export: M::Export) {
        let (sender, done) = oneshot::channel();
        self.shared.retiring.borrow_mut().insert(export, sender);
        self.tell(|machine, out| machine.unexport(export, out));
        // It fails only when the whole target is dropped; then nothing uses the device either.
        let _ = done.await;
    }

    /// Stops listening and ends all connections in an orderly way: what is at a device is answered first. Returns when
    /// no device is used any more.
    pub(crate) async fn stop(&self) {
        self.accepting.take().into_iter().for_each(JoinHandle::cancel);
        self.tell(|machine, out| machine.finish_all(out));
        while self.shared.machine.borrow().connections() > 0 {
            self.shared.ended.notified().await;
        }
        // Another caller may be waiting too.
        self.shared.ended.notify();
        // Only now: it limits how long a client may take to read its last answers.
        if let Some(timing) = self.timing.take() {
            timing.cancel();
        }
        self.shared.devices.borrow_mut().clear();
    }
}

impl<M: Machine> Shared<M> {
    /// The world.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The device behind an export; `None` once the target has stopped.
    pub(crate) fn device(&self, export: M::Export) -> Option<M::Device> {
        self.devices.borrow().get(&export).cloned()
    }

    /// Where answers for a connection go.
    pub(crate) fn answers(&self, connection: ConnectionId) -> Answers<M> {
        Answers(self.queues.borrow()[connection.index()].clone())
    }

    /// Lets a connection's task look again.
    pub(crate) fn wake(&self, connection: ConnectionId) {
        self.queues.borrow()[connection.index()].push(Told::Wake);
    }

    /// The machine's deadline may have changed.
    pub(crate) fn deadline_changed(&self) {
        self.timer.notify();
    }

    /// Nothing of an export is left.
    pub(crate) fn idle(&self, export: M::Export) {
        let gone = self.devices.borrow_mut().remove(&export);
        drop(gone);
        if let Some(waiting) = self.retiring.borrow_mut().remove(&export) {
            // Whoever asked may have gone away meanwhile.
            let _ = waiting.send(());
        }
    }

    fn tell<R>(&self, call: impl FnOnce(&mut M, &mut Vec<M::Effect>) -> R) -> R {
        let mut out = Vec::new();
        let result = call(&mut self.machine.borrow_mut(), &mut out);
        self.apply(&mut out);
        result
    }

    fn apply(&self, out: &mut Vec<M::Effect>) {
        for effect in out.drain(..) {
            M::perform(self, effect);
        }
    }

    /// Takes up a connection, or drops it when there are too many.
    fn connect(self: &Rc<Self>, stream: AnyStream) {
        let mut out = Vec::new();
        let accepted = self.machine.borrow_mut().accept(&self.host, &mut out);
        if let Some(id) = accepted {
            let queue = Queue::default();
            let mut queues = self.queues.borrow_mut();
            if queues.len() <= id.index() {
                queues.resize_with(id.index() + 1, Queue::default);
            }
            queues[id.index()] = queue.clone();
            drop(queues);
            self.host.spawn(link::serve(self.clone(), id, stream, queue));
        }
        self.apply(&mut out);
    }
}

async fn accept<M: Machine>(shared: Rc<Shared<M>>, listener: AnyListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => shared.connect(stream),
            Err(_) => shared.host.sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Tells the machine the time whenever it wants to know.
async fn keep_time<M: Machine>(shared: Rc<Shared<M>>) {
    loop {
        let deadline = shared.machine.borrow().deadline();
        let now = shared.host.now();
        match deadline {
            None => shared.timer.notified().await,
            Some(at) if at > now => {
                shared.host.timeout(at.since(now), shared.timer.notified()).await;
            }
            Some(_) => shared.tell(|machine, out| machine.on_time(now, out)),
        }
    }
}
