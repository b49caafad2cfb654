//! How exports and connections end, and what waits for their end.

use block::{Geometry, Instant, limits};

use super::connection::{FINISHING, Stage, Timer};
use super::{ConnectionId, Effect, Export, ExportError, ExportId, ExportStats, Outbox, Served, ServedState, Server};

impl Server {
    /// Serves a disk.
    pub fn export(&mut self, export: Export) -> Result<ExportId, ExportError> {
        if export.name.is_empty() || export.name.len() > limits::NBD_NAME_BYTES {
            return Err(ExportError::Name);
        }
        if self.by_name.contains_key(&export.name) {
            return Err(ExportError::Exists(export.name));
        }
        if self.exports.len() >= limits::SUBSYSTEMS {
            return Err(ExportError::Full);
        }
        let name = export.name.clone();
        let served = Served { export, state: ServedState::Serving, stats: ExportStats::default() };
        let id = ExportId(self.exports.insert(served) as u32);
        self.by_name.insert(name, id);
        Ok(id)
    }

    /// Serves a disk no longer: clients get the answers of what is at the disk, then their connections are closed.
    /// [`Effect::Idle`] says when nothing is left.
    pub fn unexport(&mut self, id: ExportId, out: &mut Outbox) {
        let served = self.served(id);
        assert_eq!(served.state, ServedState::Serving, "{} is unexported once", served.export.name);
        served.state = ServedState::Retiring;
        let name = served.export.name.clone();
        self.by_name.remove(&name);
        for client in self.clients_of(id) {
            self.finish(client, out);
        }
        for (_, connection) in self.connections.iter_mut() {
            connection.allocation_of = connection.allocation_of.filter(|of| *of != id);
        }
        self.retire(id, out);
    }

    /// Ends all connections in an orderly way, for the end of the server: they answer what is at the disk, then close.
    pub fn finish_all(&mut self, out: &mut Outbox) {
        for index in self.connections.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.finish(ConnectionId(index as u32), out);
        }
    }

    /// The size of a served disk has changed. Clients see it when they connect again: NBD has no word for it.
    pub fn resize(&mut self, id: ExportId, geometry: Geometry) {
        self.served(id).export.geometry = geometry;
    }

    /// The socket is gone, or is closed at the machine's wish.
    pub fn on_lost(&mut self, id: ConnectionId, out: &mut Outbox) {
        self.close(id, out);
    }

    /// When [`Server::on_time`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let timers = self.connections.iter().filter_map(|(_, c)| match c.timer {
            Timer::Off => None,
            Timer::After(_) => Some(Instant(0)),
            Timer::At(at) => Some(at),
        });
        timers.min()
    }

    /// Tells the time: timers are started, expired ones end their connection.
    pub fn on_time(&mut self, now: Instant, out: &mut Outbox) {
        let mut late = Vec::new();
        for (index, connection) in self.connections.iter_mut() {
            match connection.timer {
                Timer::After(delay) => connection.timer = Timer::At(now + delay),
                Timer::At(at) if at <= now => late.push(ConnectionId(index as u32)),
                Timer::At(_) | Timer::Off => {}
            }
        }
        late.into_iter().for_each(|id| self.close(id, out));
    }

    /// Takes no more commands from a connection, but answers those at the disk.
    pub(super) fn finish(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        if !connection.listens() {
            return;
        }
        connection.stage = Stage::Finishing;
        connection.drop_unsent();
        connection.timer = Timer::After(FINISHING);
        out.push(Effect::Timer);
        out.push(Effect::Wake(id));
    }

    /// Closes a connection now.
    pub(super) fn close(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        if matches!(connection.stage, Stage::Closed | Stage::Ended) {
            return;
        }
        connection.stage = Stage::Closed;
        connection.drop_unsent();
        connection.output.clear();
        connection.timer = Timer::Off;
        out.push(Effect::Timer);
        out.push(Effect::Wake(id));
        self.end_if_drained(id, out);
    }

    /// Once nothing of a closed connection is at the disk it is at its end, and those go on that waited for it.
    pub(super) fn end_if_drained(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        if connection.stage != Stage::Closed || connection.at_disk > 0 {
            return;
        }
        connection.stage = Stage::Ended;
        out.push(Effect::Wake(id));
        let Some(export) = connection.export.take() else { return };
        for client in self.clients_of(export) {
            if self.release(client) {
                out.push(Effect::Wake(client));
                self.advance(client, out);
            }
        }
        self.retire(export, out);
    }

    fn retire(&mut self, id: ExportId, out: &mut Outbox) {
        let is_retiring = self.exports.get(id.0 as usize).is_some_and(|e| e.state == ServedState::Retiring);
        if is_retiring && self.clients(id) == 0 {
            self.exports.remove(id.0 as usize);
            out.push(Effect::Idle(id));
        }
    }
}
