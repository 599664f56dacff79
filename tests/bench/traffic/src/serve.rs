//! `serve`: on each of the ports, over udp, what comes goes back; over tcp, a connection whose first byte is `e` gets
//! what it sends, of any other all is read and nothing said.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::{io, thread};

use crate::{Args, Result};

/// First byte of a connection that wants back what it sends.
pub const ECHO: u8 = b'e';
/// And of one that does not.
pub const SINK: u8 = b's';

pub fn run(args: &Args) -> Result<()> {
    args.word("a port")?;
    let mut servers = Vec::new();
    for port in args.words() {
        let place = (Ipv4Addr::UNSPECIFIED, port.parse()?);
        let (udp, tcp) = (UdpSocket::bind(place)?, TcpListener::bind(place)?);
        servers.push(thread::spawn(move || datagrams(&udp)));
        servers.push(thread::spawn(move || connections(&tcp)));
    }
    println!("ready");
    for server in servers {
        server.join().map_err(|_| "a server died")??;
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (length, client) = socket.recv_from(&mut buffer)?;
        // A client that has gone is its own business.
        let _ = socket.send_to(&buffer[..length], client);
    }
}

fn connections(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept()?;
        thread::spawn(move || one(client));
    }
}

fn one(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    client.read_exact(&mut buffer[..1])?;
    let echo = buffer[0] == ECHO;
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        if echo {
            client.write_all(&buffer[..length])?;
        }
    }
}
