//! What kube-proxy does for a Service: connections to its address go to the endpoint that its EndpointSlice names.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::Result;

/// A Service's address. Threads serve it until the process ends.
pub struct Service(Arc<Mutex<Option<SocketAddr>>>);

impl Service {
    pub fn start(at: SocketAddr) -> Result<Service> {
        let listener = TcpListener::bind(at)?;
        let target: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let chosen = target.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let chosen = *chosen.lock().expect("not poisoned");
                std::thread::spawn(move || forward(stream, chosen));
            }
        });
        Ok(Service(target))
    }

    /// New connections go there from now on.
    pub fn point(&self, at: Option<SocketAddr>) {
        *self.0.lock().expect("not poisoned") = at;
    }
}

fn forward(client: TcpStream, target: Option<SocketAddr>) {
    let Some(Ok(server)) = target.map(TcpStream::connect) else { return };
    let pair = |a: &TcpStream, b: &TcpStream| Some((a.try_clone().ok()?, b.try_clone().ok()?));
    let (Some((mut from, mut to)), Some((mut back, mut out))) = (pair(&client, &server), pair(&server, &client)) else {
        return;
    };
    let there = std::thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut back, &mut out);
    let _ = out.shutdown(Shutdown::Both);
    let _ = there.join();
}
