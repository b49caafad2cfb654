//! The task of one connection.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use block::BufMut;
use block::link::{ConnectionId, Phase};
use host::{AnyStream, LocalFuture, Queue, Stream};

use super::{Machine, Shared, Told};

/// How often a task goes round before it lets others run.
const ROUNDS: usize = 32;

/// What is under way on the socket. At most one receive and one send.
struct Link<'a, M: Machine> {
    stream: &'a dyn Stream,
    receiving: Option<LocalFuture<'a, (BufMut, io::Result<usize>)>>,
    sending: Option<LocalFuture<'a, io::Result<()>>>,
    out: Vec<M::Effect>,
}

/// Serves a connection to its end, including the commands that outlive the socket.
pub(super) async fn serve<M: Machine>(
    shared: Rc<Shared<M>>,
    id: ConnectionId,
    stream: AnyStream,
    queue: Queue<Told<M>>,
) {
    let mut link = Link { stream: &*stream, receiving: None, sending: None, out: Vec::new() };
    poll_fn(|cx| link.poll(&shared, id, &queue, cx)).await;
    shared.machine.borrow_mut().remove(id);
    shared.ended.notify();
}

impl<M: Machine> Link<'_, M> {
    fn poll(&mut self, shared: &Shared<M>, id: ConnectionId, queue: &Queue<Told<M>>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let mut moved = self.take_events(shared, id, queue);
            let phase = shared.machine.borrow().phase(id);
            match phase {
                Phase::Ended => return Poll::Ready(()),
                Phase::Closed => self.abandon(),
                Phase::Open => moved |= self.receive(shared, id, cx),
                Phase::Finishing | Phase::Flush => {}
            }
            let sent = phase != Phase::Closed && self.send(shared, id, cx);
            moved |= sent;
            if phase == Phase::Flush && !sent && self.sending.is_none() {
                // Nothing is left to send.
                shared.machine.borrow_mut().on_lost(id, &mut self.out);
                shared.apply(&mut self.out);
                moved = true;
            }
            if !moved && pin!(queue.ready()).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes on what the disks have answered.
    fn take_events(&mut self, shared: &Shared<M>, id: ConnectionId, queue: &Queue<Told<M>>) -> bool {
        if queue.is_empty() {
            return false;
        }
        let mut machine = shared.machine.borrow_mut();
        while let Some(told) = queue.pop() {
            match told {
                Told::Event(event) => machine.on_event(id, event, &mut self.out),
                Told::Wake => {}
            }
        }
        drop(machine);
        shared.apply(&mut self.out);
        true
    }

    /// The socket is of no use any more; only commands at the disk are waited for.
    fn abandon(&mut self) {
        self.receiving = None;
        self.sending = None;
        self.stream.shutdown();
    }

    fn receive(&mut self, shared: &Shared<M>, id: ConnectionId, cx: &mut Context<'_>) -> bool {
        if self.receiving.is_none() {
            let place = shared.machine.borrow_mut().receive(id);
            self.receiving = place.map(|p| self.stream.recv(p.buf, p.from, p.max));
        }
        let Some(receiving) = &mut self.receiving else { return false };
        let Poll::Ready((buf, received)) = receiving.as_mut().poll(cx) else { return false };
        self.receiving = None;
        match received {
            Ok(n) if n > 0 => shared.machine.borrow_mut().on_received(id, buf, n, &mut self.out),
            Ok(_) | Err(_) => shared.machine.borrow_mut().on_lost(id, &mut self.out),
        }
        shared.apply(&mut self.out);
        true
    }

    fn send(&mut self, shared: &Shared<M>, id: ConnectionId, cx: &mut Context<'_>) -> bool {
        if self.sending.is_none() {
            let bufs = shared.machine.borrow_mut().take_output(id);
            self.sending = (!bufs.is_empty()).then(|| self.stream.send(bufs));
        }
        let Some(sending) = &mut self.sending else { return false };
        let Poll::Ready(sent) = sending.as_mut().poll(cx) else { return false };
        self.sending = None;
        if sent.is_err() {
            shared.machine.borrow_mut().on_lost(id, &mut self.out);
            shared.apply(&mut self.out);
        } else if M::WANTS_SENT {
            shared.machine.borrow_mut().on_sent(id, &mut self.out);
            shared.apply(&mut self.out);
        }
        true
    }
}
