//! Many connections, one thread: each has a script that says what it asks next.

use std::net::SocketAddr;

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

use crate::{
    Result,
    connection::{Answer, Ask, Connection},
};

/// Bytes that are taken from a socket at once.
const BUFFER: usize = 256 * 1024;

/// What one connection does.
pub trait Script {
    /// What it asks next, told the answer to what it asked before; `None` when it is done.
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>>;
}

/// Runs the scripts, a connection each, until all are done.
pub fn run(address: SocketAddr, scripts: &mut [impl Script]) -> Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for number in 0..scripts.len() {
        let connection = Connection::open(address)?;
        let data = EventData::new_u64(number as u64);
        epoll::add(&epoll, connection.stream(), data, EventFlags::IN)?;
        connections.push((connection, false));
    }
    let mut running = scripts.len();
    for (script, (connection, _)) in scripts.iter_mut().zip(&mut connections) {
        match script.next(None)? {
            Some(ask) => connection.begin(ask)?,
            None => running -= 1,
        }
    }
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(connections.len());
    while running > 0 {
        // Who could not send all is told when there is room again.
        for (number, (connection, waits)) in connections.iter_mut().enumerate() {
            if connection.is_sending() != *waits {
                *waits = !*waits;
                let data = EventData::new_u64(number as u64);
                let both = EventFlags::IN | EventFlags::OUT;
                let flags = if *waits { both } else { EventFlags::IN };
                epoll::modify(&epoll, connection.stream(), data, flags)?;
            }
        }
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let (number, flags) = (event.data.u64() as usize, { event.flags });
            let (connection, _) = &mut connections[number];
            if flags.contains(EventFlags::OUT) {
                connection.send()?;
            }
            if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                continue;
            }
            if let Some(answer) = connection.receive(&mut buffer)? {
                match scripts[number].next(Some(answer))? {
                    Some(ask) => connection.begin(ask)?,
                    None => {
                        epoll::delete(&epoll, connection.stream())?;
                        running -= 1;
                    }
                }
            }
        }
    }
    Ok(())
}
